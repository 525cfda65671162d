"""The caller of a request, as the access check identified it."""

from __future__ import annotations

from dataclasses import dataclass

from speech_qc.security.api_keys import Key


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a request.

    Attributes:
        key: Its key, or the key that its token replaces; None if the server has no keys.
    """

    key: Key | None = None

    @property
    def name(self) -> str:
        """Name for logs."""
        return self.key.name if self.key is not None else "anonymous"


ANONYMOUS = Caller()
