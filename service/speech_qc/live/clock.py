"""The clock of a leg: where arriving audio belongs in time, and what was not received.

`PositionClock` follows positions that the sender gives. It puts packets back into order within a bounded window, drops
duplicates, and tells loss from discontinuous transmission (DTX): if no packet is missing but time jumps, the sender had
nothing to send. `ArrivalClock` is for senders without positions, which send nothing while their source is silent: audio
that comes much later than it should follows a gap, unless the sender catches up at once, as it does after a stall of
the network.

Audio is never stretched. A clock that runs differently from ours is reported as drift.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass
from itertools import count
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from speech_qc.errors import ProtocolError
from speech_qc.wire.vocabulary import GapKind

Float32 = NDArray[np.float32]
_T = TypeVar("_T")


class Piece(Protocol):
    """Samples, or a packet that will be decoded to them."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, part: slice, /) -> Any:
        """Return a part of them."""


_P = TypeVar("_P", bound=Piece)

TOLERANCE_S = 0.01
"""Positions that differ less from what is expected are contiguous: more than rounding, less than a packet."""

REORDER_S = 0.2
"""Longest wait for a packet that is overtaken by others."""

MAX_HELD = 64
"""Most packets that wait for one that was overtaken."""

MAX_JUMP_S = 86_400.0
"""Longest gap; positions that jump further are wrong."""

RESTART_S = 1.0
"""So much audio in a row with positions in the past means that the sender's positions began anew."""

LATE_S = 0.15
"""Without positions: delay of arrival beyond which audio may follow a gap; the jitter of a network is smaller."""

DECIDE_S = 0.1
"""Without positions: time within which a sender that was only held up catches up."""

DRIFT_WINDOW_S, MIN_DRIFT_S, MAX_DRIFT_PPM = 10.0, 30.0, 5000.0
"""The least delay of arrival in each window is compared over at least `MIN_DRIFT_S`; no clock drifts by more than
`MAX_DRIFT_PPM`: the audio was sent faster or slower than real time."""


@dataclass(frozen=True, slots=True)
class Missing:
    """Audio that was not received.

    Attributes:
        samples: Its length at the leg's rate.
        kind: Why.
    """

    samples: int
    kind: GapKind


@dataclass(slots=True)
class Arrivals:
    """How packets arrived; the fields are those of `speech_qc.pipeline.gaps.Transport`."""

    late: int = 0
    duplicates: int = 0
    reordered: int = 0
    restarts: int = 0


class DriftMeter:
    """Compares the sender's clock with ours by the least delay in windows of time."""

    def __init__(self) -> None:
        self._window_s: float | None = None
        self._least = math.inf
        self._at_s = 0.0  # when the least delay was seen
        self._first: tuple[float, float] | None = None
        self._last: tuple[float, float] | None = None

    def note(self, now_s: float, position_s: float) -> None:
        """Note that the audio before a position has arrived now."""
        delay = now_s - position_s
        if self._window_s is None:
            self._window_s = now_s
        elif now_s - self._window_s >= DRIFT_WINDOW_S:
            self._last = (self._at_s, self._least)
            self._first = self._first or self._last
            self._window_s, self._least = now_s, math.inf
        if delay < self._least:
            self._least, self._at_s = delay, now_s

    @property
    def ppm(self) -> float | None:
        """How much faster the sender's clock runs, parts per million; None if unknown."""
        if self._first is None or self._last is None or self._last[0] - self._first[0] < MIN_DRIFT_S:
            return None
        ppm = -1e6 * (self._last[1] - self._first[1]) / (self._last[0] - self._first[0])
        return round(ppm, 1) if abs(ppm) <= MAX_DRIFT_PPM else None


class PositionClock(Generic[_P]):
    """Follows a leg whose packets have positions; used from one event loop.

    Args:
        rate_hz: Rate of the leg's samples.
        ordered: Whether the transport keeps the order, so that a packet that is missing will not come.
    """

    def __init__(self, rate_hz: int, *, ordered: bool) -> None:
        self._rate_hz, self._ordered = rate_hz, ordered
        self._tolerance = round(TOLERANCE_S * rate_hz)
        self._window = round(REORDER_S * rate_hz)
        self._origin: int | None = None  # the sender's position of the leg's first sample
        self._next = 0  # position of the next sample
        self._sequence: int | None = None  # of the last packet that was passed on
        self._held: list[tuple[int, int, _P, int | None]] = []  # a heap: position, tie-breaker, samples, sequence
        self._ties = count()
        self._since_s = 0.0  # when the oldest packet that is held arrived
        self._gaps: deque[tuple[int, int]] = deque(maxlen=64)
        self._old = 0  # samples with old positions in a row
        self._drift = DriftMeter()
        self.arrivals = Arrivals()

    @property
    def drift_ppm(self) -> float | None:
        """See `DriftMeter.ppm`."""
        return self._drift.ppm

    @property
    def due_s(self) -> float | None:
        """When `expire` has something to do; None if nothing waits."""
        return self._since_s + REORDER_S if self._held else None

    def take(self, samples: _P, now_s: float, position: int, sequence: int | None = None) -> list[_P | Missing]:
        """Take a packet; return what is in order now.

        Args:
            samples: float32 (n,), or a packet that will be that many samples.
            now_s: Monotonic time, seconds.
            position: The sender's position of its first sample, in samples from any origin.
            sequence: Number of the packet among all of the leg, if the sender counts them.

        Raises:
            ProtocolError: The position is more than a day after the one before.
        """
        if not len(samples):
            return []
        if self._origin is None:
            self._origin = position
        at = position - self._origin
        ahead = at - self._next
        if ahead > MAX_JUMP_S * self._rate_hz:
            raise ProtocolError(
                f"expected positions that grow with the audio, got a jump of {ahead / self._rate_hz:.0f} s: send "
                "timestamps relative to the start of the stream"
            )
        self._drift.note(now_s, (at + len(samples)) / self._rate_hz)
        if ahead < -self._tolerance:
            return self._take_old(samples, at, sequence, position, now_s)
        self._old = 0
        if not self._held and ahead <= self._tolerance:
            return [self._deliver(samples, sequence)]
        follows = sequence is not None and self._sequence is not None and sequence == self._sequence + 1
        if not self._held and (self._ordered or follows):
            return [self._miss(at, "dtx" if follows else "loss"), self._deliver(samples, sequence)]
        if self._held and at < max(self._held)[0]:
            self.arrivals.reordered += 1
        if not self._held:
            self._since_s = now_s
        heapq.heappush(self._held, (at, next(self._ties), samples, sequence))
        return self._release(now_s)

    @property
    def next_position(self) -> int:
        """The sender's position that would be contiguous."""
        return self._next + (self._origin or 0)

    def expire(self, now_s: float) -> list[_P | Missing]:
        """Give up waiting for packets that are due; return what is in order now."""
        return self._release(now_s)

    def finish(self) -> list[_P | Missing]:
        """Return everything that still waits."""
        return self._release(math.inf)

    def _deliver(self, samples: _P, sequence: int | None) -> _P:
        self._next += len(samples)
        self._sequence = sequence
        return samples

    def _miss(self, at: int, kind: GapKind) -> Missing:
        self._gaps.append((self._next, at))
        missing = Missing(at - self._next, kind)
        self._next = at
        return missing

    def _release(self, now_s: float) -> list[_P | Missing]:
        """Return the packets that are next, and those that have waited for too long."""
        ready: list[_P | Missing] = []
        while self._held:
            at, _, samples, sequence = self._held[0]
            newest = max(self._held)
            span = newest[0] + len(newest[2]) - self._next
            if at - self._next > self._tolerance:
                follows = sequence is not None and self._sequence is not None and sequence == self._sequence + 1
                waits = now_s < self._since_s + REORDER_S and span <= self._window + len(samples)
                if not follows and waits and len(self._held) <= MAX_HELD:
                    break
                ready.append(self._miss(at, "dtx" if follows else "loss"))
            heapq.heappop(self._held)
            rest = samples[max(0, self._next - at) :] if self._next - at > self._tolerance else samples
            if len(rest):
                ready.append(self._deliver(rest, sequence))
            else:
                self.arrivals.duplicates += 1
            self._since_s = min(now_s, self._since_s + REORDER_S) if self._held else self._since_s
        return ready

    def _take_old(self, samples: _P, at: int, sequence: int | None, position: int, now_s: float) -> list[_P | Missing]:
        """Drop audio whose time is over, except the part that is not, or if the sender's positions began anew."""
        overlap = self._next - at
        if overlap <= len(samples) - self._tolerance and not self._held:
            return [self._deliver(samples[overlap:], sequence)]
        self._old += len(samples)
        if self._old > RESTART_S * self._rate_hz:
            self._old = 0
            self.arrivals.restarts += 1
            ready = self.finish()
            self._origin = position - self._next
            return [*ready, self._deliver(samples, sequence)]
        if any(start - self._tolerance <= at < stop for start, stop in self._gaps):
            self.arrivals.late += 1
        else:
            self.arrivals.duplicates += 1
        return self._release(now_s)


class ArrivalClock(Generic[_T]):
    """Follows a leg without positions by the time at which its audio arrives; used from one event loop.

    Args:
        rate_hz: Rate of the leg's samples.
    """

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._start_s: float | None = None  # when the leg began, by the audio that arrived earliest
        self._next = 0  # samples passed on, gaps included
        self._held: list[_T] = []
        self._held_samples = 0
        self._since_s = 0.0
        self._least_s = 0.0  # least delay of what is held
        self._window_s, self._window_least_s = 0.0, math.inf
        self._drift = DriftMeter()
        self.arrivals = Arrivals()

    @property
    def drift_ppm(self) -> float | None:
        """See `DriftMeter.ppm`."""
        return self._drift.ppm

    @property
    def due_s(self) -> float | None:
        """When `expire` has something to do; None if nothing waits."""
        return self._since_s + DECIDE_S if self._held else None

    def take(self, audio: _T, samples: int, now_s: float) -> list[_T | Missing]:
        """Take audio; return what is certain now.

        Args:
            audio: What arrived.
            samples: Its length.
            now_s: Monotonic time, seconds.
        """
        if not samples:
            return []
        if self._start_s is None:
            self._start_s = self._window_s = now_s - samples / self._rate_hz
        self._held.append(audio)
        self._held_samples += samples
        late_s = now_s - self._start_s - (self._next + self._held_samples) / self._rate_hz
        if late_s < 0.0:
            self._start_s += late_s
            late_s = 0.0
        if late_s <= LATE_S:
            self._follow(late_s, now_s)
            return self._release()
        if len(self._held) == 1:
            self._since_s, self._least_s = now_s, late_s
        self._least_s = min(self._least_s, late_s)
        return self.expire(now_s)

    def expire(self, now_s: float) -> list[_T | Missing]:
        """Decide that the sender has not caught up, if it is time to."""
        if not self._held or now_s < self._since_s + DECIDE_S:
            return []
        return self.finish()

    def gap(self, samples: int) -> list[_T | Missing]:
        """Note a gap that the sender has declared: the audio after it is no later than it should be."""
        ready = self.finish()
        self._next += samples
        return ready

    def finish(self) -> list[_T | Missing]:
        """Return everything that still waits, after the gap before it."""
        if not self._held:
            return []
        missing = Missing(round(self._least_s * self._rate_hz), "dtx")
        self._next += missing.samples
        return [missing, *self._release()]

    def _release(self) -> list[_T | Missing]:
        ready, self._held = self._held, []
        self._next += self._held_samples
        self._held_samples = 0
        return [*ready]

    def _follow(self, late_s: float, now_s: float) -> None:
        """Follow a sender whose clock runs slowly, so that its delay does not grow into a gap; it is reported."""
        assert self._start_s is not None
        self._drift.note(now_s, (self._next + self._held_samples) / self._rate_hz)
        self._window_least_s = min(self._window_least_s, late_s)
        if now_s - self._window_s >= DRIFT_WINDOW_S:
            self._start_s += self._window_least_s
            self._window_s, self._window_least_s = now_s, math.inf
