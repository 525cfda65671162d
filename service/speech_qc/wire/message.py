"""What the messages of both directions of a stream have in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Message(BaseModel):
    """Base of all messages of a stream, in both directions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: str

    def document(self) -> dict[str, Any]:
        """Return the message as it is sent: the type first, and without optional fields that were not set."""
        return {"type": self.type} | self.model_dump(exclude_unset=True)
