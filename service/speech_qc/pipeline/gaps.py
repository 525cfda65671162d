"""Stretches of a stream that were not received: bridged for the model, null in the results, at their true times.

A stream has two axes. The *true* axis counts all time since the stream's first sample. The *heard* axis is what the
detectors and the model are given: the received audio, and a bridge in place of each gap. A bridge is as long as its
gap, but a gap of more than about `BRIDGE_S` is shortened by whole frames, the *skip*, so that an hour on hold costs no
more than a fifth of a second. Frames that touch a bridge are not received; what the model says about them is discarded.

The bridge is the sound before the gap, mirrored, and for its last `JOINT_S` it fades into the mirrored sound after the
gap. So the model's state passes over the gap, and neither edge looks like a dropout or a click. A bridge depends on the
audio and on the gap only, not on how the audio arrived.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from speech_qc.contract import FeatureSpec
from speech_qc.scoring import EventUpdate
from speech_qc.wire.vocabulary import GapKind

Float32 = NDArray[np.float32]

BRIDGE_S = 0.2
"""Longest gap that is bridged in full: longer than the model's look-ahead and windows reach across."""

JOINT_S = 0.005
"""End of a bridge that fades into the sound after the gap."""

MAX_SPANS = 1000
"""Gaps that are listed; further ones are only counted."""

KEPT_FRAMES, MAX_KEPT = 3600, 4096
"""Bridges are remembered for this many frames (72 s), longer than any event waits to be announced, and at most this
many of them."""


@dataclass(frozen=True, slots=True)
class GapSpan:
    """One gap, seconds of the true axis."""

    kind: GapKind
    start_s: float
    stop_s: float


@dataclass(frozen=True, slots=True)
class Transport:
    """What a stream did not receive, and how its audio arrived.

    Attributes:
        spans: The first `MAX_SPANS` gaps.
        spans_dropped: Number of further ones.
        missing_s: Seconds not received, by kind.
        share: Seconds not received, relative to the stream's duration; None without duration.
        late: Packets that came after their time was over; their audio was not scored.
        duplicates: Packets that came twice.
        reordered: Packets that were put back into order.
        restarts: How often the sender's positions began anew.
        drift_ppm: How much faster the sender's positions grow than the receiver's clock; None if unknown.
    """

    spans: tuple[GapSpan, ...]
    spans_dropped: int
    missing_s: dict[GapKind, float]
    share: float | None
    late: int = 0
    duplicates: int = 0
    reordered: int = 0
    restarts: int = 0
    drift_ppm: float | None = None


@dataclass(frozen=True, slots=True)
class _Bridge:
    """One bridge, on the heard axis.

    Attributes:
        start: First sample at the stream's own rate.
        stop: First sample after it.
        first_frame: First frame that it touches.
        stop_frame: First frame after it.
        start_16k: `start` at the model's rate.
        stop_16k: `stop` at the model's rate.
        skip_at: Frame before which `skip_frames` frames of the true axis are missing.
    """

    start: int
    stop: int
    first_frame: int
    stop_frame: int
    start_16k: int
    stop_16k: int
    skip_at: int
    skip_frames: int


@dataclass(slots=True)
class _Missing:
    spans: list[GapSpan] = field(default_factory=list)
    count: int = 0
    samples: dict[GapKind, int] = field(default_factory=dict)


class GapLine:
    """The gaps of one stream; owned by its session.

    Args:
        rate_hz: The stream's own rate.
        spec: Gives the model's rate and the length of a frame.
    """

    def __init__(self, rate_hz: int, spec: FeatureSpec) -> None:
        self._rate_hz, self._spec = rate_hz, spec
        frame = Fraction(spec.frame_samples * rate_hz, spec.sample_rate_hz)
        self._unit_frames, self._unit_samples = frame.denominator, frame.numerator  # the shortest skip
        self._max_bridge = round(BRIDGE_S * rate_hz)
        self._joint_samples = round(JOINT_S * rate_hz)
        self.tail_samples = self._max_bridge + self._unit_samples
        """Longest bridge: as many samples before a gap are worth keeping."""
        self.bridges: list[_Bridge] = []  # `MAX_KEPT` at most; not a deque, which takes 0.7 KiB when it is empty
        self._forgotten_frames = 0  # skipped by bridges that are no longer kept
        self.filled = 0
        """Samples of all bridges."""
        self.skipped_frames = 0
        """Frames of all skips."""
        self._missing = _Missing()
        self.gap = 0
        """Samples of a gap that is not bridged yet."""
        self._head: list[Float32] = []  # sound after it, as pushed

    @property
    def missing_samples(self) -> int:
        """Samples not received so far, at the stream's own rate."""
        return sum(self._missing.samples.values())

    def add(self, samples: int, kind: GapKind, received: int) -> None:
        """Note a gap after `received` samples; `bridge` must follow."""
        self.gap += samples
        missing = self._missing
        start = received + self.missing_samples
        missing.samples[kind] = missing.samples.get(kind, 0) + samples
        missing.count += 1
        if len(missing.spans) < MAX_SPANS:
            missing.spans.append(GapSpan(kind, start / self._rate_hz, (start + samples) / self._rate_hz))

    @property
    def held_samples(self) -> int:
        """Samples after the gap that are held."""
        return sum(map(len, self._head))

    def hold(self, samples: Float32) -> bool:
        """Hold sound after the gap; return whether it suffices for the end of the bridge."""
        self._head.append(samples)
        return self.held_samples >= self._joint_samples

    def bridge(self, start: int, frames_done: int) -> int:
        """Bridge the gap.

        Args:
            start: Where it begins on the heard axis.
            frames_done: Frames whose scores have been accepted; bridges long before them are forgotten.

        Returns:
            Samples of the bridge.
        """
        gap, self.gap = self.gap, 0
        units = max(0, gap - self._max_bridge) // self._unit_samples
        stop = start + gap - units * self._unit_samples
        made = _Bridge(
            start, stop,
            first_frame=self._frame(start), stop_frame=self._frame_after(stop),
            start_16k=self._at_16k(start), stop_16k=self._at_16k(stop),
            skip_at=self._frame_after(start), skip_frames=units * self._unit_frames,
        )  # fmt: skip
        while self.bridges and (
            self.bridges[0].stop_frame < frames_done - KEPT_FRAMES or len(self.bridges) == MAX_KEPT
        ):
            self._forgotten_frames += self.bridges.pop(0).skip_frames
        self.bridges.append(made)
        self.filled += stop - start
        self.skipped_frames += made.skip_frames
        return stop - start

    def joined(self, before: Float32, count: int) -> tuple[Float32, Float32]:
        """Return the sound of a bridge and the held sound after it, which is held no longer.

        Args:
            before: The sound before the gap, see `bridge_samples`.
            count: Samples of the bridge.
        """
        head, self._head = np.concatenate([np.zeros(0, np.float32), *self._head]), []
        after = np.clip(head[: self._joint_samples], -1.0, 1.0)
        return bridge_samples(np.clip(before, -1.0, 1.0), count, after), head

    def missing(self, first: int, count: int) -> NDArray[np.bool_] | None:
        """Return which frames of the heard axis touch a bridge, bool (count,); None if none does."""
        mask: NDArray[np.bool_] | None = None
        for one in reversed(self.bridges):
            if one.stop_frame <= first:
                break
            if one.first_frame < first + count:
                mask = np.zeros(count, np.bool_) if mask is None else mask
                mask[max(0, one.first_frame - first) : one.stop_frame - first] = True
        return mask

    def skips(self, first: int, stop: int) -> list[tuple[int, int]]:
        """Return (frame, skipped frames) of each skip in [first, stop) of the heard axis."""
        return [
            (one.skip_at, one.skip_frames) for one in self.bridges if one.skip_frames and first <= one.skip_at < stop
        ]

    def skipped_before(self, frame: int) -> int:
        """Return how many frames are skipped before a frame of the heard axis; it is that much later in truth."""
        return self._forgotten_frames + sum(one.skip_frames for one in self.bridges if one.skip_at <= frame)

    def placed(self, update: EventUpdate) -> EventUpdate:
        """Return an update with its true times: what precedes it on the heard axis lacks the skipped frames."""
        event, hop_s = update.event, self._spec.frame_hop_s
        late = self.skipped_before(event.onset_frame)
        changes: dict[str, float] = {"onset_frame": event.onset_frame + late, "onset_s": event.onset_s + late * hop_s}
        if event.offset_frame is not None and event.offset_s is not None:
            late = self.skipped_before(event.offset_frame - 1)
            changes |= {"offset_frame": event.offset_frame + late, "offset_s": event.offset_s + late * hop_s}
        return replace(update, event=replace(event, **changes))  # type: ignore[arg-type]  # frames are whole

    def touches(self, start: int, stop: int) -> bool:
        """Whether samples [start, stop) of the heard axis touch a bridge."""
        return any(start < one.stop and one.start < stop for one in self.bridges)

    def received(self, start: int, samples: Float32) -> Iterator[tuple[int, Float32]]:
        """Yield the received parts of samples at the model's rate, each with its position on the true axis.

        Args:
            start: Position of the samples on the heard axis.
            samples: float32 (n,).
        """
        stop = start + len(samples)
        shift = self._forgotten_frames
        position = start
        for one in self.bridges:
            if one.start_16k >= stop:
                break
            if one.start_16k > position:
                yield position + shift * self._spec.frame_samples, samples[position - start : one.start_16k - start]
            shift += one.skip_frames
            position = max(position, one.stop_16k)
        if position < stop:
            yield position + shift * self._spec.frame_samples, samples[position - start :]

    @property
    def count(self) -> int:
        """Number of gaps."""
        return self._missing.count

    def report(self, received: int) -> Transport:
        """Return the report after `received` samples."""
        missing = self._missing
        total = received + self.missing_samples
        return Transport(
            spans=tuple(missing.spans),
            spans_dropped=missing.count - len(missing.spans),
            missing_s={kind: samples / self._rate_hz for kind, samples in missing.samples.items()},
            share=self.missing_samples / total if total else None,
        )

    def _frame(self, sample: int) -> int:
        return sample * self._spec.sample_rate_hz // (self._spec.frame_samples * self._rate_hz)

    def _frame_after(self, sample: int) -> int:
        return -(-sample * self._spec.sample_rate_hz // (self._spec.frame_samples * self._rate_hz))

    def _at_16k(self, sample: int) -> int:
        return -(-sample * self._spec.sample_rate_hz // self._rate_hz)


def bridge_samples(before: Float32, count: int, after: Float32) -> Float32:
    """Return the sound of a bridge.

    Args:
        before: float32 (n,), the sound before the gap; may be shorter than the bridge, or empty.
        count: Samples of the bridge.
        after: float32 (m,), the first sound after it; the bridge fades into its mirror image.
    """
    bridge = np.pad(before, (0, count), mode="symmetric")[len(before) :] if len(before) else np.zeros(count, np.float32)
    fade = min(len(after), count)
    if fade:
        weight = (np.arange(1, fade + 1, dtype=np.float32) / np.float32(fade + 1)).astype(np.float32)
        bridge[count - fade :] += weight * (after[:fade][::-1] - bridge[count - fade :])
    return np.ascontiguousarray(bridge, np.float32)
