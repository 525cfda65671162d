"""Summarises a whole recording: the shares of speech, noise and interference, and the signal-to-noise ratio.

Frames are collected in fixed portions at absolute positions and summed portion by portion. So the order of additions,
and every bit of the result, does not depend on how the stream was split into blocks, and the small blocks of a live
stream cost very little.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from speech_qc.contract import ModelContract
from speech_qc.scoring.layout import MIN_JUDGED_S, MIN_SPEECH_FRAMES, FloatArray, ScoreLayout, frames_reaching, power_of
from speech_qc.scoring.losses import SpeechLoss
from speech_qc.scoring.rows import Column, Places, Rows

PORTION_FRAMES = 128
"""Frames (2.56 s) that are summed together; large enough to make NumPy's overhead small, 8 KiB per channel."""

MOS_LABELS = ("sig", "bak", "ovrl")
"""Opinion-score heads, which are optional in a model."""

AVERAGED = (*MOS_LABELS, "reverberation")
"""Optional heads whose mean over speech frames is a measure."""

SNR_KINDS = ("stationary_noise", "transient_noise", "interfering_speech", "music", "tone")
"""Kinds of disturbance whose own signal-to-noise ratio is measured."""

UNEXPLAINED = 0.05
"""Squared score of what no kind explains; without it, the faintest kind would explain all noise of a clean frame."""

NO_FRAMES = "no audio was scored"
TOO_SHORT = f"shorter than {MIN_JUDGED_S} s"
NO_SPEECH = "no speech was found"
LITTLE_SPEECH = f"speech was found in fewer than {MIN_SPEECH_FRAMES} frames"


@dataclass(frozen=True, slots=True)
class Summary:
    """Measurements of a whole stream; a value that cannot be known is None, and `reasons` says why.

    Args:
        frames: Frames scored.
        speech_frames: Frames in which the speech score reaches its enter threshold.
        speech_ratio: Share of frames with speech.
        noise_ratio: Share of frames with audible noise.
        interference_ratio: Share of frames with a competing source.
        snr_db: Ratio of mean speech power over speech frames to mean noise power over all frames, dB.
        sig: Mean opinion score of the speech signal over speech frames, 1 to 5.
        bak: The same for the background.
        ovrl: The same for the overall quality.
        reverberation: Mean reverberation score over speech frames, 0 to 1.
        snr_by_kind_db: `snr_db` of each kind of disturbance alone, by label; empty where `snr_db` is None.
        lost_ratio: Share of the talker's time that was lost: losses, relative to speech and losses together.
        losses_per_min: Losses in speech per minute.
        longest_loss_ms: The longest of them; 0 if there are none.
        label_ratios: Share of frames at or above the enter threshold, for every probability label of the model.
            Empty if there are no frames.
        reasons: Reason by field name, for each field above that is None.
    """

    frames: int
    speech_frames: int
    speech_ratio: float | None
    noise_ratio: float | None
    interference_ratio: float | None
    snr_db: float | None
    sig: float | None
    bak: float | None
    ovrl: float | None
    reverberation: float | None
    snr_by_kind_db: Mapping[str, float]
    lost_ratio: float | None
    losses_per_min: float | None
    longest_loss_ms: float | None
    label_ratios: Mapping[str, float]
    reasons: Mapping[str, str]

    def without(self, frames: Mapping[str, int]) -> Summary:
        """Return the summary without these frames of labels, which turned out to be something else."""
        if not frames:
            return self
        less = {name: max(0.0, self.label_ratios.get(name, 0.0) - n / self.frames) for name, n in frames.items()}
        return replace(self, label_ratios={**self.label_ratios, **less})


@dataclass(slots=True)
class _Sums:
    """Accumulated sums; `hits` is int64 [C], `mean` is float64 [heads averaged over speech], `kinds` is [kinds]."""

    hits: npt.NDArray[np.int64]
    mean: npt.NDArray[np.float64]
    kinds: npt.NDArray[np.float64]
    speech_power: float = 0.0
    noise_power: float = 0.0


OnPortion = Callable[[FloatArray, FloatArray], None]
"""Called with the scores [128, C] and levels [128] of every full portion, valid during the call."""


class SummaryRows(Rows):
    """The unfinished portions of many channels.

    Args:
        layout: Layout of the model's scores.
        rows: Number of rows.
    """

    scores: FloatArray
    """[rows, 128, C]."""
    levels: FloatArray
    """[rows, 128], dBFS."""
    waiting: npt.NDArray[np.int64]
    """Frames of each that are filled."""

    def __init__(self, layout: ScoreLayout, rows: int) -> None:
        columns = {
            "scores": Column((PORTION_FRAMES, layout.width), np.float32),
            "levels": Column((PORTION_FRAMES,), np.float32),
            "waiting": Column((), np.int64),
        }
        super().__init__(columns, rows)
        self.on_portion: dict[int, OnPortion] = {}
        """By row."""

    def add(self, rows: Places, scores: FloatArray, level_dbfs: FloatArray) -> None:
        """Take the next frames of channels.

        Args:
            rows: [B].
            scores: float32 [B, n, C].
            level_dbfs: float32 [B, n].
        """
        count = scores.shape[1]
        stops = self.waiting[rows] + count
        room = stops < PORTION_FRAMES
        if not room.all():
            for place in np.flatnonzero(~room).tolist():
                self._fill(int(rows[place]), scores[place], level_dbfs[place])
            rows, scores, level_dbfs, stops = rows[room], scores[room], level_dbfs[room], stops[room]
        if len(rows):
            frames = stops[:, None] + np.arange(-count, 0)
            self.scores[rows[:, None], frames] = scores
            self.levels[rows[:, None], frames] = level_dbfs
            self.waiting[rows] = stops

    def _fill(self, row: int, scores: FloatArray, level_dbfs: FloatArray) -> None:
        """Add frames to one channel, portion by portion."""
        taken, waiting = 0, int(self.waiting[row])
        while taken < len(scores):
            share = min(PORTION_FRAMES - waiting, len(scores) - taken)
            self.scores[row, waiting : waiting + share] = scores[taken : taken + share]
            self.levels[row, waiting : waiting + share] = level_dbfs[taken : taken + share]
            taken, waiting = taken + share, waiting + share
            if waiting == PORTION_FRAMES:
                self.on_portion[row](self.scores[row], self.levels[row])
                waiting = 0
        self.waiting[row] = waiting


class _Portions:
    """The sums of one channel's full portions; knows no rows, so that rows may refer to it."""

    def __init__(
        self,
        layout: ScoreLayout,
        mean_columns: list[int],
        kind_columns: list[int],
        on_levels: Callable[[FloatArray], None] | None,
    ) -> None:
        self._layout, self._mean_columns, self._kind_columns = layout, mean_columns, kind_columns
        self._on_levels = on_levels
        self.count = 0
        self.sums = _Sums(np.zeros(layout.width, np.int64), np.zeros(len(mean_columns)), np.zeros(len(kind_columns)))

    def add(self, scores: FloatArray, level_dbfs: FloatArray) -> None:
        """Take a full portion."""
        self.count += 1
        self.sums = self.with_frames(scores, level_dbfs)
        if self._on_levels is not None:
            self._on_levels(level_dbfs)

    def with_frames(self, scores: FloatArray, level_dbfs: FloatArray) -> _Sums:
        """Return new sums that include these frames, [n, C] and [n]; the stored sums do not change.

        A frame of power P and SNR s has speech power P·s / (1 + s) and noise power P / (1 + s). A frame without speech
        counts as noise only to the extent of its disturbance: P·d², where d is the higher of the two headline scores.
        If it counted as noise entirely, soft syllables that the speech score misses would make clean recordings look
        noisy. The square keeps the many low scores of quiet frames from adding up. The level floor keeps the noise
        power of speech frames above zero.

        The noise of a frame belongs to the kinds of disturbance in proportion to their squared scores.
        """
        layout, old = self._layout, self.sums
        hits = scores >= layout.enter  # [n, C]
        speech = hits[:, layout.speech]
        power = power_of(level_dbfs)
        ratio = power_of(scores[:, layout.snr])
        noise_power = power / (1.0 + ratio)
        disturbed = np.maximum(scores[:, layout.noise], scores[:, layout.interference]).astype(np.float64)
        disturbance = np.where(speech, noise_power, power * disturbed * disturbed)  # [n]
        kinds = np.square(scores[:, self._kind_columns], dtype=np.float64)  # [n, kinds]
        kinds *= (disturbance / (kinds.sum(axis=1) + UNEXPLAINED))[:, None]
        return _Sums(
            hits=old.hits + np.count_nonzero(hits, axis=0),
            mean=old.mean + scores[speech][:, self._mean_columns].sum(axis=0, dtype=np.float64),
            kinds=old.kinds + kinds.sum(axis=0),
            speech_power=old.speech_power + float((noise_power * ratio)[speech].sum()),
            noise_power=old.noise_power + float(disturbance.sum()),
        )


class SummaryMeter:
    """Summarises one channel of one stream. Not thread-safe; memory is constant.

    Args:
        contract: The model's contract.
        layout: Layout of the same contract, to share one between many meters.
        rows: Rows of many channels, of which this one's is `row`; None for rows of its own.
        row: Its row, which is clear.
        on_levels: Called with the levels of every full portion.

    Raises:
        ContractError: A label that the summary needs is missing.
    """

    def __init__(
        self,
        contract: ModelContract,
        layout: ScoreLayout | None = None,
        *,
        rows: SummaryRows | None = None,
        row: int = 0,
        on_levels: Callable[[FloatArray], None] | None = None,
    ) -> None:
        layout = layout or ScoreLayout(contract)
        self._layout = layout
        self._mean_names = [name for name in AVERAGED if contract.has(name)]
        self._mean_columns = [contract.index(name) for name in self._mean_names]
        self._kinds = [name for name in SNR_KINDS if contract.has(name)]
        self._kind_columns = [contract.index(name) for name in self._kinds]
        self._min_frames = frames_reaching(MIN_JUDGED_S, contract.features.frame_hop_s)
        self._rows, self._row = rows or SummaryRows(layout, 1), row
        self._portions = _Portions(layout, self._mean_columns, self._kind_columns, on_levels)
        self._rows.on_portion[row] = self._portions.add
        self._losses = 0
        self._lost_s = self._longest_s = 0.0
        self._unheard_s = 0.0  # of the lost time, what no frame with speech covers
        self._hop_s = contract.features.frame_hop_s

    def push(self, scores: FloatArray, level_dbfs: FloatArray) -> None:
        """Add the next frames.

        Args:
            scores: float32 [n, C], n >= 0, columns as in the contract. Not kept.
            level_dbfs: float32 [n], mean square of each frame, dBFS.

        Raises:
            InferenceError: Wrong shape, wrong type, or a value that is not finite.
        """
        self._layout.check_block(scores, level_dbfs)
        self.add(scores, level_dbfs)

    def add(self, scores: FloatArray, level_dbfs: FloatArray) -> None:
        """Add frames that have already been checked; see `push`."""
        self._rows.add(np.array([self._row]), scores[None], level_dbfs[None])

    @property
    def unfinished(self) -> tuple[FloatArray, FloatArray]:
        """Scores [n, C] and levels [n] of the frames that are in no full portion yet; valid until more are added."""
        waiting = int(self._rows.waiting[self._row])
        return self._rows.scores[self._row, :waiting], self._rows.levels[self._row, :waiting]

    @property
    def last_scores(self) -> FloatArray:
        """The scores of the last frame, [C]; zeros before the first."""
        last: FloatArray = self._rows.scores[self._row, int(self._rows.waiting[self._row]) - 1]
        return last

    def add_losses(self, losses: Sequence[SpeechLoss]) -> None:
        """Count losses that fall into speech."""
        for loss in losses:
            self._losses += 1
            self._lost_s += loss.gap_s
            self._longest_s = max(self._longest_s, loss.gap_s)
            self._unheard_s += max(0.0, loss.gap_s - loss.speech_frames * self._hop_s)

    def frames_with(self, column: int, *, whole: bool = False) -> int:
        """Return the number of frames so far in which a label reaches its enter threshold.

        Args:
            column: Column of the label.
            whole: Include the frames of the unfinished portion; without them the call costs nothing.
        """
        sums = self._portions.with_frames(*self.unfinished) if whole else self._portions.sums
        return int(sums.hits[column])

    def result(self) -> Summary:
        """Summarise all frames so far; the stream may continue afterwards."""
        frames, layout = self._frames, self._layout
        sums = self._portions.with_frames(*self.unfinished)
        speech_frames = int(sums.hits[layout.speech])
        ratios = {layout.names[c]: int(sums.hits[c]) / frames for c in layout.probability_columns} if frames > 0 else {}
        found: dict[str, float] = {}
        by_kind: dict[str, float] = {}
        lack = self._lack(speech_frames)
        if lack is None:
            found["snr_db"] = self._snr_db(sums, speech_frames, sums.noise_power)
            found |= {
                name: float(total) / speech_frames for name, total in zip(self._mean_names, sums.mean, strict=True)
            }
            by_kind = {
                name: self._snr_db(sums, speech_frames, float(power))
                for name, power in zip(self._kinds, sums.kinds, strict=True)
            }
        if frames:
            found["losses_per_min"] = 60.0 * self._losses / (frames * self._hop_s)
            found["longest_loss_ms"] = 1000.0 * self._longest_s
        if speech_frames:
            found["lost_ratio"] = min(1.0, self._lost_s / (speech_frames * self._hop_s + self._unheard_s))
        reasons = {f"{name}_ratio": NO_FRAMES for name in ("speech", "noise", "interference") if name not in ratios}
        for name in ("snr_db", *AVERAGED):
            if name not in found:
                has_head = name == "snr_db" or name in self._mean_names
                reasons[name] = lack if lack is not None and has_head else f"this model has no {name} head"
        reasons |= {name: NO_FRAMES for name in ("losses_per_min", "longest_loss_ms") if name not in found}
        if "lost_ratio" not in found:
            reasons["lost_ratio"] = NO_SPEECH if frames else NO_FRAMES
        return Summary(
            frames=frames,
            speech_frames=speech_frames,
            speech_ratio=ratios.get("speech"),
            noise_ratio=ratios.get("noise"),
            interference_ratio=ratios.get("interference"),
            snr_db=found.get("snr_db"),
            sig=found.get("sig"),
            bak=found.get("bak"),
            ovrl=found.get("ovrl"),
            reverberation=found.get("reverberation"),
            snr_by_kind_db=by_kind,
            lost_ratio=found.get("lost_ratio"),
            losses_per_min=found.get("losses_per_min"),
            longest_loss_ms=found.get("longest_loss_ms"),
            label_ratios=ratios,
            reasons=reasons,
        )

    @property
    def _frames(self) -> int:
        return self._portions.count * PORTION_FRAMES + int(self._rows.waiting[self._row])

    def _lack(self, speech_frames: int) -> str | None:
        """Return why speech cannot be measured; None if it can."""
        frames = self._frames
        if frames == 0:
            return NO_FRAMES
        if frames < self._min_frames:
            return TOO_SHORT
        if speech_frames >= MIN_SPEECH_FRAMES:
            return None
        return LITTLE_SPEECH if speech_frames else NO_SPEECH

    def _snr_db(self, sums: _Sums, speech_frames: int, noise_power: float) -> float:
        spec = self._layout.contract.labels[self._layout.snr]
        if noise_power <= 0.0:
            return spec.high
        ratio = (sums.speech_power / speech_frames) / (noise_power / self._frames)
        return min(max(10.0 * math.log10(ratio), spec.low), spec.high)
