"""One limit on the memory that all uploads of a server use together, so that they cannot exhaust the machine.

It counts recordings that must be complete before they can be decoded, the scores of all frames until the response is
built, and responses that clients have not read yet. Independent of HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from speech_qc.errors import Overloaded, PayloadTooLarge

MIB = 2**20


class Reservation:
    """The memory reserved by one upload.

    Args:
        budget: Shared by all uploads.
    """

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget, self.bytes = budget, 0

    def set(self, held_bytes: int) -> None:
        """Set the number of bytes that this upload uses.

        Raises:
            PayloadTooLarge: This upload alone would exceed the limit.
            Overloaded: All uploads together would exceed the limit.
        """
        self._budget.check(held_bytes, held_bytes - self.bytes)
        self._budget.uploads_bytes += held_bytes - self.bytes
        self.bytes = held_bytes


class MemoryBudget:
    """The memory limit; used from one event loop.

    Args:
        limit_bytes: Limit for all uploads together.
        on_refused: Called for each upload that is refused because the others use too much.
    """

    def __init__(self, limit_bytes: int, on_refused: Callable[[], object]) -> None:
        self._limit_bytes, self._on_refused = limit_bytes, on_refused
        self._unsent: Callable[[], int] = int
        self.uploads_bytes = 0

    def count_unsent(self, unsent: Callable[[], int]) -> None:
        """Also count responses that clients have not read yet; called by a server that can inspect its connections.

        Args:
            unsent: Returns the bytes in the send buffers of all connections.
        """
        self._unsent = unsent

    @property
    def unsent_bytes(self) -> int:
        """Bytes of responses that clients have not read yet."""
        return self._unsent()

    @property
    def bytes(self) -> int:
        """Bytes in use now."""
        return self.uploads_bytes + self._unsent()

    @contextmanager
    def reserve(self) -> Iterator[Reservation]:
        """Make a reservation of 0 bytes and release it at the end; raises Overloaded if all memory is in use."""
        self.check(0, 0)
        one = Reservation(self)
        try:
            yield one
        finally:
            self.uploads_bytes -= one.bytes

    @contextmanager
    def sending(self, answer_bytes: int) -> Iterator[None]:
        """Count a response while it is sent, even beyond the limit: the work is done."""
        self.uploads_bytes += answer_bytes
        try:
            yield
        finally:
            self.uploads_bytes -= answer_bytes

    def check(self, alone_bytes: int, more_bytes: int) -> None:
        """Check whether one upload may use `alone_bytes`, `more_bytes` more than now; see `Reservation.set`."""
        limit_mib = self._limit_bytes / MIB
        if alone_bytes > self._limit_bytes:
            raise PayloadTooLarge(
                f"expected a recording that can be inspected in {limit_mib:.0f} MiB (SPEECHQC_MAX_HELD_BYTES), this "
                "one needs more: set frames=false, send WAV, which is not buffered, or send it in parts",
                max_held_bytes=self._limit_bytes,
            )
        if self.bytes + more_bytes > self._limit_bytes:
            self._on_refused()
            raise Overloaded(
                f"expected room for this upload in {limit_mib:.0f} MiB (SPEECHQC_MAX_HELD_BYTES), other uploads and "
                "responses fill it: try again in a few seconds",
                max_held_bytes=self._limit_bytes,
                retry_after_s=5,
            )
