"""Puts the packets of a stream in the order of their sequence numbers, within a bounded window."""

from __future__ import annotations

from collections import deque

from speech_qc.rtp.packets import RtpPacket

MAX_WAITING = 64
"""Packets that wait for a missing one before it."""

MAX_WAITING_BYTES = 1 << 16
_MAX_STEP = 3000  # RFC 3550, A.1: a larger step is a restart, not loss
_RECENT = 512


class Ordering:
    """The order of one stream.

    A missing packet is waited for until `window_ns` have passed or the window is full; then it is lost. Duplicates, and
    packets that come after they counted as lost, are dropped and counted. A jump of the sequence numbers that the next
    packet confirms is a restart.

    Args:
        window_ns: How long to wait for a missing packet.
    """

    def __init__(self, window_ns: int) -> None:
        self.lost = self.late = self.duplicates = self.reordered = self.restarts = self.stray = 0
        self.released = 0
        self._window_ns = window_ns
        self._next: int | None = None  # extended sequence number
        self._newest = 0
        self._waiting: dict[int, RtpPacket] = {}
        self._waiting_bytes = 0
        self._recent: deque[int] = deque(maxlen=_RECENT)
        self._recent_set: set[int] = set()
        self._strange: RtpPacket | None = None

    def push(self, packet: RtpPacket) -> list[tuple[int, RtpPacket]]:
        """Take a packet in order of arrival.

        Returns:
            The packets that are now in order, each with the number of packets missing before it; 0 after a restart.
        """
        if self._next is None:
            self._next = self._newest = packet.sequence + (1 << 16)
        step = ((packet.sequence - self._next + 0x8000) & 0xFFFF) - 0x8000
        if abs(step) > _MAX_STEP:
            return self._restart(packet)
        self._strange = None
        number = self._next + step
        if number in self._waiting or number in self._recent_set:
            self.duplicates += 1
            return []
        if step < 0:
            self.late += 1
            return []
        if number < self._newest:
            self.reordered += 1
        self._newest = max(self._newest, number)
        self._waiting[number] = packet
        self._waiting_bytes += len(packet.payload)
        return self._ready(packet.time_ns)

    def flush(self) -> list[tuple[int, RtpPacket]]:
        """Give up whatever is missing."""
        released = []
        while self._waiting:
            released += self._give_up()
        return released

    def _ready(self, now_ns: int) -> list[tuple[int, RtpPacket]]:
        released = self._run(0)
        while self._waiting:
            first = next(iter(self._waiting.values()))  # the first that arrived
            is_full = len(self._waiting) > MAX_WAITING or self._waiting_bytes > MAX_WAITING_BYTES
            if not is_full and now_ns - first.time_ns <= self._window_ns:
                break
            released += self._give_up()
        return released

    def _give_up(self) -> list[tuple[int, RtpPacket]]:
        """Skip to the lowest number that is there."""
        assert self._next is not None
        lowest = min(self._waiting)
        missing, self._next = lowest - self._next, lowest
        self.lost += missing
        return self._run(missing)

    def _run(self, missing: int) -> list[tuple[int, RtpPacket]]:
        """Release what is contiguous."""
        released: list[tuple[int, RtpPacket]] = []
        assert self._next is not None
        while (packet := self._waiting.pop(self._next, None)) is not None:
            self._waiting_bytes -= len(packet.payload)
            released.append((missing, packet))
            missing = 0
            self.released += 1
            if len(self._recent) == _RECENT:
                self._recent_set.discard(self._recent[0])
            self._recent.append(self._next)
            self._recent_set.add(self._next)
            self._next += 1
        return released

    def _restart(self, packet: RtpPacket) -> list[tuple[int, RtpPacket]]:
        """Take a packet far from the others; two in a row are a restart of the sequence."""
        before, self._strange = self._strange, packet
        if before is None or packet.sequence != (before.sequence + 1) & 0xFFFF:
            self.stray += before is not None
            return []
        released = self.flush()
        self._strange = None
        self.restarts += 1
        assert self._next is not None
        self._next = self._newest = before.sequence + ((self._next >> 16) + 2 << 16)
        self._recent.clear()
        self._recent_set.clear()
        for strange in (before, packet):
            released += self.push(strange)
        return released
