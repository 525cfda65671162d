"""Summarises a whole recording: the shares of speech, noise and interference, and the signal-to-noise ratio.

Frames are collected in fixed portions at absolute positions and summed portion by portion. So the order of additions,
and every bit of the result, does not depend on how the stream was split into blocks, and the small blocks of a live
stream cost very little.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from speech_qc.contract import ModelContract
from speech_qc.scoring.layout import MIN_JUDGED_S, MIN_SPEECH_FRAMES, FloatArray, ScoreLayout, frames_reaching, power_of
from speech_qc.scoring.losses import SpeechLoss

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


class SummaryMeter:
    """Summarises one channel of one stream. Not thread-safe; memory is constant.

    Args:
        contract: The model's contract.
        layout: Layout of the same contract, to share one between many meters.

    Raises:
        ContractError: A label that the summary needs is missing.
    """

    def __init__(self, contract: ModelContract, layout: ScoreLayout | None = None) -> None:
        layout = layout or ScoreLayout(contract)
        self._layout = layout
        self._mean_names = [name for name in AVERAGED if contract.has(name)]
        self._mean_columns = [contract.index(name) for name in self._mean_names]
        self._kinds = [name for name in SNR_KINDS if contract.has(name)]
        self._kind_columns = [contract.index(name) for name in self._kinds]
        self._min_frames = frames_reaching(MIN_JUDGED_S, contract.features.frame_hop_s)
        self._scores = np.empty((PORTION_FRAMES, layout.width), np.float32)
        self._level_dbfs = np.empty(PORTION_FRAMES, np.float32)
        self._waiting = 0  # frames of the portion that are filled
        self._frames = 0
        self._losses = 0
        self._lost_s = self._longest_s = 0.0
        self._unheard_s = 0.0  # of the lost time, what no frame with speech covers
        self._hop_s = contract.features.frame_hop_s
        self._sums = _Sums(
            np.zeros(layout.width, np.int64), np.zeros(len(self._mean_columns)), np.zeros(len(self._kinds))
        )

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
        frames = len(scores)
        self._frames += frames
        stop = self._waiting + frames
        if stop < PORTION_FRAMES:  # fast path for the small blocks of live streams
            self._scores[self._waiting : stop] = scores
            self._level_dbfs[self._waiting : stop] = level_dbfs
            self._waiting = stop
            return
        taken = 0
        while taken < frames:
            share = min(PORTION_FRAMES - self._waiting, frames - taken)
            stop = self._waiting + share
            self._scores[self._waiting : stop] = scores[taken : taken + share]
            self._level_dbfs[self._waiting : stop] = level_dbfs[taken : taken + share]
            taken += share
            self._waiting = stop
            if stop == PORTION_FRAMES:
                self._sums = self._add_portion()
                self._waiting = 0

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
        sums = self._add_portion() if whole and self._waiting else self._sums
        return int(sums.hits[column])

    def result(self) -> Summary:
        """Summarise all frames so far; the stream may continue afterwards."""
        frames, layout = self._frames, self._layout
        sums = self._add_portion() if self._waiting else self._sums
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

    def _lack(self, speech_frames: int) -> str | None:
        """Return why speech cannot be measured; None if it can."""
        if self._frames == 0:
            return NO_FRAMES
        if self._frames < self._min_frames:
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

    def _add_portion(self) -> _Sums:
        """Return new sums that include the collected frames; the stored sums do not change.

        A frame of power P and SNR s has speech power P·s / (1 + s) and noise power P / (1 + s). A frame without speech
        counts as noise only to the extent of its disturbance: P·d², where d is the higher of the two headline scores.
        If it counted as noise entirely, soft syllables that the speech score misses would make clean recordings look
        noisy. The square keeps the many low scores of quiet frames from adding up. The level floor keeps the noise
        power of speech frames above zero.

        The noise of a frame belongs to the kinds of disturbance in proportion to their squared scores.
        """
        layout, old = self._layout, self._sums
        scores, level_dbfs = self._scores[: self._waiting], self._level_dbfs[: self._waiting]
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
