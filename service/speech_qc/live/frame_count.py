"""Counts the frames of a live stream in the metrics."""

from __future__ import annotations

from collections.abc import Sequence

from speech_qc.pipeline.session import Session
from speech_qc.telemetry.metrics import Metrics

COUNT_FRAMES = 50
"""Frames of a stream that are counted in one call: a counter's lock costs as much as checking a frame."""


class FrameCount:
    """Counts scored frames of all channels of one stream.

    Args:
        metrics: Has the counters.
        sessions: The channels.
        frame_hop_s: Seconds per frame.
    """

    def __init__(self, metrics: Metrics, sessions: Sequence[Session], frame_hop_s: float) -> None:
        self._sessions, self._frame_hop_s = sessions, frame_hop_s
        self._frames, self._seconds = metrics.frames, metrics.audio_seconds.labels("live")
        self._noisy = metrics.noisy_frames.labels("live")
        self._noisy_counted = 0
        self._waiting = 0  # of one channel, not counted yet

    def add(self, frames: int) -> None:
        """Note frames of each channel."""
        self._waiting += frames
        if self._waiting >= COUNT_FRAMES:
            self.count()

    def count(self, *, whole: bool = False) -> None:
        """Count the frames so far, and the noisy ones among them; see `ChannelScores.noisy_frames`."""
        noisy = sum(session.scores.noisy_frames(whole=whole) for session in self._sessions)
        self._noisy.inc(noisy - self._noisy_counted)
        self._noisy_counted = noisy
        frames, self._waiting = self._waiting * len(self._sessions), 0
        self._frames.inc(frames)
        self._seconds.inc(frames * self._frame_hop_s)
