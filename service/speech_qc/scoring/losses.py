"""Joins losses found in samples with scores: which of them fall into speech, and what the model says about them.

Losses become known at samples, scores arrive later and in blocks of any size. A loss is held until the frames around it
have been scored, so what is said about it, and when, does not depend on the blocks. Memory is constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from speech_qc.contract import ModelContract
from speech_qc.scoring.layout import FloatArray, ScoreLayout
from speech_qc.scoring.rows import NEVER, Column, Places, Rows
from speech_qc.wire.vocabulary import LossKind

NEAR_FRAMES = 6
"""Frames (0.12 s) on each side of a loss in which speech is sought."""

SPOKEN_FRAMES = 2
"""Frames with speech on a side that make it speech."""

SPOKEN_SHARE = 0.6
"""Share of the speech label's enter threshold from which a frame counts as speech; a loss makes its score fall."""

TONE_FRAMES = 2
"""Frames before a loss, and its first one, in which a tone is sought."""

CONFIRMED = 0.9
"""Highest `dropout` score of a loss that the samples leave unsure."""

_HELD_FRAMES = 320  # longest gap, two pieces of the detector, and the frames beside them
BLOCK_FRAMES = 64
"""Most frames taken at once, so that the frames before them are still there."""

_RING_FRAMES = _HELD_FRAMES + BLOCK_FRAMES


@dataclass(frozen=True, slots=True)
class LossSpan:
    """A loss in samples of the stream.

    Args:
        kind: What replaced the samples.
        start: First lost sample.
        stop: First sample after them.
        known: Sample at which the loss became known; its frame is scored only after the loss was passed on.
        sure: Whether the samples alone prove it; otherwise the model must confirm it.
        tonal: Whether it may be the pause after a tone, or a tone itself; it is no loss if the model hears the tone.
    """

    kind: LossKind
    start: int
    stop: int
    known: int
    sure: bool = True
    tonal: bool = False


@dataclass(frozen=True, slots=True)
class SpeechLoss:
    """A loss that falls into speech.

    Args:
        kind: What replaced the samples.
        onset_s: Its start, seconds.
        offset_s: Its end.
        known: Frame with whose scores it became certain.
        onset_frame: First frame that it touches.
        offset_frame: First frame after it.
        score_max: Highest `dropout` score of its frames; 0 if the model has no such head.
        score_mean: Mean of the same.
        speech_frames: Its frames with speech.
    """

    kind: LossKind
    onset_s: float
    offset_s: float
    known: int
    onset_frame: int
    offset_frame: int
    score_max: float
    score_mean: float
    speech_frames: int

    @property
    def gap_s(self) -> float:
        """Its length, seconds."""
        return self.offset_s - self.onset_s


@dataclass(frozen=True, slots=True)
class _Held:
    span: LossSpan
    onset: int
    offset: int
    due: int


class LossRows(Rows):
    """The latest scores of many channels.

    Args:
        layout: Layout of the model's scores.
        rows: Number of rows.
    """

    recent: FloatArray
    """Scores for `speech`, `dropout` and `tone`, [rows, 384, 3]; frame i of a channel is at i modulo 384."""
    due: npt.NDArray[np.int64]
    """Frame with whose scores the next loss is certain."""

    def __init__(self, layout: ScoreLayout, rows: int) -> None:
        columns = {
            "recent": Column((_RING_FRAMES, 3), np.float32),
            "due": Column((), np.int64, NEVER),
        }
        super().__init__(columns, rows)
        names = layout.names
        kept = ("speech", "dropout", "tone")
        self._kept_columns = [names.index(name) if name in names else layout.speech for name in kept]

    def frames_at_once(self, rows: Places, stops: npt.NDArray[np.int64]) -> int:
        """Return how many of the next frames of channels, up to `stops`, `add` takes at a time."""
        if (self.due[rows] < stops).any():
            return BLOCK_FRAMES
        return _RING_FRAMES  # no loss becomes certain, so nothing is looked up

    def add(self, rows: Places, scores: FloatArray, stops: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Take the next frames of channels.

        Args:
            rows: [B].
            scores: float32 [B, n, C], n at most what `frames_at_once` says.
            stops: [B], the frame of each channel that follows them.

        Returns:
            [B], the channels with losses that are certain now, for `LossJoin.due`.
        """
        frames = stops[:, None] + np.arange(-scores.shape[1], 0)
        self.recent[rows[:, None], frames % _RING_FRAMES] = scores[:, :, self._kept_columns]
        certain: npt.NDArray[np.bool_] = self.due[rows] < stops
        return certain


class LossJoin:
    """Joins the losses of one channel with its scores; owned by one session, not thread-safe.

    Args:
        contract: The model's contract.
        layout: Layout of the same contract.
        rate_hz: Sample rate of the losses.
        rows: Rows of many channels, of which this one's is `row`; they take the scores.
        row: Its row, which is clear.
    """

    def __init__(self, contract: ModelContract, layout: ScoreLayout, rate_hz: int, *, rows: LossRows, row: int) -> None:
        self._rows, self._row = rows, row
        self._rate_hz = rate_hz
        self._sample_rate_hz = contract.features.sample_rate_hz
        self._samples_per_frame = contract.features.frame_samples * rate_hz  # at the product of both rates
        self._enter = layout.enter[layout.speech]
        self._spoken_score = np.float32(SPOKEN_SHARE * self._enter)
        self._has_dropout = contract.has("dropout")
        self._tone_score = layout.enter[contract.index("tone")] if contract.has("tone") else np.float32(np.inf)
        self._held: list[_Held] = []

    def push(self, losses: Sequence[LossSpan]) -> None:
        """Accept losses that became known, in order."""
        for loss in losses:
            onset, offset = self._frame(loss.start), self.frame_after(loss.stop)
            self._held.append(_Held(loss, onset, offset, max(self.frame_after(loss.known), offset + NEAR_FRAMES)))
        self._settle()

    def due(self, frames: int) -> list[SpeechLoss]:
        """Return the losses that are certain with so many frames, which `LossRows.add` has taken."""
        due = [held for held in self._held if held.due < frames]
        self._held = [held for held in self._held if held.due >= frames]
        self._settle()
        return self._in_speech(due, frames)

    def _settle(self) -> None:
        self._rows.due[self._row] = min((held.due for held in self._held), default=NEVER)

    def finish(self, frames: int) -> list[SpeechLoss]:
        """Return the losses that were held when the stream ended after so many frames."""
        held, self._held = self._held, []
        self._settle()
        return self._in_speech(held, frames)

    def _in_speech(self, due: Sequence[_Held], stop: int) -> list[SpeechLoss]:
        if not due:
            return []
        first = max(0, stop - _RING_FRAMES)
        recent = self._rows.recent[self._row, np.arange(first, stop) % _RING_FRAMES]
        found = []
        for held in sorted(due, key=lambda item: (item.due, item.onset)):
            speech = recent[:, 0] >= self._spoken_score
            onset, offset = held.onset - first, min(held.offset, stop) - first
            if not _is_spoken(speech, onset, offset):
                continue
            if held.span.tonal and recent[max(0, onset - TONE_FRAMES) : onset + 1, 2].max() >= self._tone_score:
                continue
            scores = recent[onset:offset, 1] if self._has_dropout else np.zeros(1, np.float32)
            if not held.span.sure and scores.max() < CONFIRMED:
                continue
            found.append(
                SpeechLoss(
                    kind=held.span.kind,
                    onset_s=held.span.start / self._rate_hz,
                    offset_s=held.span.stop / self._rate_hz,
                    known=min(held.due, stop),
                    onset_frame=held.onset,
                    offset_frame=min(held.offset, stop),
                    score_max=float(scores.max()),
                    score_mean=float(scores.mean(dtype=np.float64)),
                    speech_frames=int(np.count_nonzero(recent[onset:offset, 0] >= self._enter)),
                )
            )
        return found

    def _frame(self, sample: int) -> int:
        """Return the frame that contains a sample."""
        return sample * self._sample_rate_hz // self._samples_per_frame

    def frame_after(self, sample: int) -> int:
        """Return the first frame that begins at a sample or after it."""
        return -(-sample * self._sample_rate_hz // self._samples_per_frame)


def _is_spoken(speech: npt.NDArray[np.bool_], onset: int, offset: int) -> bool:
    """Say whether there is speech before or after a loss.

    The frames at its edges belong to both sides: they hold the sound next to the loss.
    """
    before = np.count_nonzero(speech[max(0, onset + 1 - NEAR_FRAMES) : onset + 1])
    after = np.count_nonzero(speech[max(0, offset - 1) : offset - 1 + NEAR_FRAMES])
    return bool(max(before, after) >= SPOKEN_FRAMES)
