"""Counts the text messages of a stream that the server cannot use, so that each kind of error is sent only once.

A client that sends audio as text would otherwise get as many errors as it sends messages.
"""

from __future__ import annotations

from collections import Counter

from speech_qc.errors import ProtocolError
from speech_qc.live.input_checks import InputWarning

MAX_KINDS = 20
"""Kinds that are counted one by one; a client that invents more gets no further errors."""


class IgnoredMessages:
    """Belongs to one stream."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def is_new(self, error: ProtocolError) -> bool:
        """Count a message; return whether its error is to be sent.

        Only errors with a `kind` are counted: the others answer a command, whose sender waits for the reply.
        """
        if "kind" not in error.detail:
            return True
        kind = " ".join(str(error.detail[name]) for name in ("kind", "type") if name in error.detail)
        if kind not in self._counts and len(self._counts) >= MAX_KINDS:
            kind = "others"
        self._counts[kind] += 1
        return self._counts[kind] == 1

    def warning(self) -> InputWarning | None:
        """Return the warning for the end of the stream; None if every error was sent."""
        repeated = {kind: count for kind, count in self._counts.items() if count > 1}
        if not repeated:
            return None
        counts = ", ".join(f"{count} × {kind}" for kind, count in repeated.items())
        return InputWarning(
            "ignored_messages", f"text messages were ignored; only the first of each kind got an error: {counts}"
        )
