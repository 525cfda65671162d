"""The base of all parts of a response."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """Base of all parts of a response."""

    model_config = ConfigDict(extra="forbid")
