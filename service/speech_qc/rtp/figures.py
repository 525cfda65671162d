"""Figures of a stream's transport: jitter, clock drift, and running totals."""

from __future__ import annotations

MIN_DRIFT_S = 30.0
"""Seconds of a stream that an estimate of its clock needs: below, jitter outweighs it."""


class Jitter:
    """Interarrival jitter (RFC 3550, A.8) of packets with sound, in order of arrival."""

    def __init__(self) -> None:
        self.now_s = self.max_s = 0.0
        self._sum_s = 0.0
        self.count = 0
        self._transit: float | None = None
        self._base_ns: int | None = None  # fractions of a microsecond survive only in small numbers

    @property
    def mean_s(self) -> float:
        """Mean over the packets."""
        return self._sum_s / self.count if self.count else 0.0

    def add(self, arrival_ns: int, media_s: float) -> None:
        """Take a packet.

        Args:
            arrival_ns: When it was captured.
            media_s: Its timestamp in seconds; it must not wrap.
        """
        if self._base_ns is None:
            self._base_ns = arrival_ns
        transit = (arrival_ns - self._base_ns) * 1e-9 - media_s
        if self._transit is not None:
            self.now_s += (abs(transit - self._transit) - self.now_s) / 16
            self.max_s = max(self.max_s, self.now_s)
            self._sum_s += self.now_s
            self.count += 1
        self._transit = transit

    def skip(self) -> None:
        """Forget the last packet, because the clock of the stream has jumped."""
        self._transit = None


class Drift:
    """Sender's clock against that of the capture: the slope of a line through arrival over media time."""

    def __init__(self) -> None:
        self.skip()

    def skip(self) -> None:
        """Start anew."""
        self._count = 0
        self._mean_x = self._mean_y = self._xx = self._xy = self._first = self._last = 0.0

    def add(self, media_s: float, arrival_s: float) -> None:
        """Take a packet; both in seconds since the start of the stream."""
        if not self._count:
            self._first = media_s
        self._count += 1
        delay = arrival_s - media_s
        step = media_s - self._mean_x
        self._mean_x += step / self._count
        self._mean_y += (delay - self._mean_y) / self._count
        self._xx += step * (media_s - self._mean_x)
        self._xy += step * (delay - self._mean_y)
        self._last = media_s

    @property
    def ppm(self) -> float | None:
        """Parts per million; positive if the sender's clock is fast. None for less than `MIN_DRIFT_S`."""
        if self._last - self._first < MIN_DRIFT_S or self._xx == 0.0:
            return None
        return -self._xy / self._xx * 1e6
