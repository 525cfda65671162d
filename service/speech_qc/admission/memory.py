"""What the uploads of one server hold in memory, all together: one bound, so that many cannot fill the machine.

Counted are recordings that have to be complete before they are read, the scores of all frames until the answer is made
of them, and answers that wait in connections for clients to take them. Knows no HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from speech_qc.errors import Overloaded, PayloadTooLarge

MIB = 2**20


class Reservation:
    """What one upload holds.

    Args:
        budget: Shared by all uploads.
    """

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget, self.bytes = budget, 0

    def set(self, held_bytes: int) -> None:
        """Hold so many bytes from now on.

        Raises:
            PayloadTooLarge: This upload alone holds more than all may.
            Overloaded: Together with the others it is too much now.
        """
        self._budget.check(held_bytes, held_bytes - self.bytes)
        self._budget.uploads_bytes += held_bytes - self.bytes
        self.bytes = held_bytes


class MemoryBudget:
    """The bound; used from one event loop.

    Args:
        limit_bytes: Of all uploads together.
        on_refused: Called for each upload that is refused because the others hold too much.
    """

    def __init__(self, limit_bytes: int, on_refused: Callable[[], object]) -> None:
        self._limit_bytes, self._on_refused = limit_bytes, on_refused
        self._unsent: Callable[[], int] = int
        self.uploads_bytes = 0

    def count_unsent(self, unsent: Callable[[], int]) -> None:
        """Count answers that clients have not taken yet as well; a server that can see its connections calls this.

        Args:
            unsent: Bytes in the send buffers of all connections.
        """
        self._unsent = unsent

    @property
    def unsent_bytes(self) -> int:
        """Bytes of answers that clients have not taken yet."""
        return self._unsent()

    @property
    def bytes(self) -> int:
        """Held now."""
        return self.uploads_bytes + self._unsent()

    @contextmanager
    def reserve(self) -> Iterator[Reservation]:
        """Begin with nothing, hold nothing at the end; raises Overloaded when there is no room at all."""
        self.check(0, 0)
        one = Reservation(self)
        try:
            yield one
        finally:
            self.uploads_bytes -= one.bytes

    @contextmanager
    def sending(self, answer_bytes: int) -> Iterator[None]:
        """Hold an answer, whatever the bound says: the work is done."""
        self.uploads_bytes += answer_bytes
        try:
            yield
        finally:
            self.uploads_bytes -= answer_bytes

    def check(self, alone_bytes: int, more_bytes: int) -> None:
        """Whether one upload may hold so many, which are so many more; see `Reservation.set`."""
        limit_mib = self._limit_bytes / MIB
        if alone_bytes > self._limit_bytes:
            raise PayloadTooLarge(
                f"expected a recording that is inspected in {limit_mib:.0f} MiB (SPEECHQC_MAX_HELD_BYTES), this one "
                "takes more: ask for frames=false, send WAV, which is not collected, or send it in parts",
                max_held_bytes=self._limit_bytes,
            )
        if self.bytes + more_bytes > self._limit_bytes:
            self._on_refused()
            raise Overloaded(
                f"expected room for this upload in {limit_mib:.0f} MiB (SPEECHQC_MAX_HELD_BYTES), other uploads and "
                "answers fill them: try again in a few seconds",
                max_held_bytes=self._limit_bytes,
                retry_after_s=5,
            )
