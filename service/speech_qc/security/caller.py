"""Who sent a request, as the access check found out."""

from __future__ import annotations

from dataclasses import dataclass

from speech_qc.security.api_keys import Key


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request.

    Attributes:
        key: Its key, or that of its token; None where the server has no keys.
    """

    key: Key | None = None

    @property
    def name(self) -> str:
        """For logs."""
        return self.key.name if self.key is not None else "anonymous"


ANONYMOUS = Caller()
