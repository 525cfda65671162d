"""What the metrics are told of one live stream: its frames, and how long its audio takes until it is scored."""

from __future__ import annotations

import time
from collections.abc import Sequence

from speech_qc.contract import FeatureSpec
from speech_qc.pipeline.session import Session
from speech_qc.telemetry.metrics import Metrics

COUNT_FRAMES = 50
"""Frames of a stream that are counted in one call: a counter's lock costs as much as checking a frame."""


class StreamMetrics:
    """Counts the frames of a stream, and measures its lag.

    Args:
        metrics: Of the server.
        sessions: The channels.
        spec: Gives the lengths of frames and windows.
    """

    def __init__(self, metrics: Metrics, sessions: Sequence[Session], spec: FeatureSpec) -> None:
        self._sessions, self._frame_hop_s, self._overlap = sessions, spec.frame_hop_s, spec.overlap_samples
        self._frames, self._seconds = metrics.frames, metrics.audio_seconds.labels("live")
        self._noisy, self._lag = metrics.noisy_frames.labels("live"), metrics.stream_lag_seconds
        self._noisy_counted = 0
        self._uncounted = 0  # frames of each channel
        self.arrivals: list[tuple[int, float]] = []
        """(samples at the model's rate received by then, time), one per frame at most; a deque takes 0.7 KiB."""
        self._arrived_s = 0.0

    def arrived(self, received: int, now_s: float) -> None:
        """Note that so many samples have been received by now."""
        arrivals = self.arrivals
        if arrivals and received - arrivals[-1][0] < self._overlap:
            arrivals.pop()  # for messages of a few samples, one entry per window is enough; keep the later time
        arrivals.append((received, now_s))

    def cut(self, taken: int) -> None:
        """Note that a chunk was cut whose own samples end here; at the end, it may need none that arrived."""
        arrivals, needed = self.arrivals, taken + self._overlap
        while arrivals and arrivals[0][0] < needed:
            arrivals.pop(0)
        self._arrived_s = arrivals[0][1] if arrivals else time.monotonic()

    def scored(self, frames: int) -> None:
        """Note that a chunk of each channel was scored, which added so many frames."""
        self._uncounted += frames
        if self._uncounted >= COUNT_FRAMES:
            self.count()
        self._lag.observe(time.monotonic() - self._arrived_s)

    def count(self, *, whole: bool = False) -> None:
        """Count the frames so far, and the noisy ones among them; see `ChannelScores.noisy_frames`."""
        noisy = sum(session.scores.noisy_frames(whole=whole) for session in self._sessions)
        self._noisy.inc(noisy - self._noisy_counted)
        self._noisy_counted = noisy
        frames, self._uncounted = self._uncounted * len(self._sessions), 0
        self._frames.inc(frames)
        self._seconds.inc(frames * self._frame_hop_s)
