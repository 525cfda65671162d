"""The contenders: a model, a run, or a baseline. All take samples and return scores per frame and for the whole sound.

The energy baseline and WADA-SNR run in this process. Silero VAD, FireRedVAD, YAMNet and DNSMOS run in a separate
process (`training/peers.py`) with an interpreter that has their packages.
"""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio.features import FrontEnd, frame_levels_dbfs
from speech_qc.contract import FeatureSpec, ModelContract
from speech_qc.scoring import SummaryMeter
from training import peers
from training.baseline import energy_scores
from training.corpora.taxonomy import DISTURBANCE
from training.evaluation.cases import Case
from training.evaluation.wada import wada_snr_db

Float32 = NDArray[np.float32]

BATCH = 40  # sequences of one length per batch; limits memory, does not affect figures
BATCH_FRAMES = 16_000  # frames of all sequences of a batch, for the same reason
PEER_DEADLINE_S = 4 * 3600.0
PEER_THRESHOLD = 0.5
PEER_LABELS: Mapping[str, tuple[tuple[str, ...], float]] = {
    "silero": (("speech",), 0.032),
    "firered": (("speech",), 0.0),
    "yamnet": (peers.YAMNET_LABELS, 0.96),
    "dnsmos": ((), 0.0),
    "nisqa": ((), 0.0),
}
"""Labels that a peer scores per frame, and its latency: until the end of its chunk or of its later window. `firered`
reads the whole sound first, so it has no latency that could be compared."""
BASELINES = ("energy", "wada", *peers.PEERS)
SUMMARY_FIGURES = ("snr_db", "sig", "bak", "ovrl", "speech_ratio", "noise_ratio", "interference_ratio")


class PeerError(Exception):
    """A third-party baseline could not be run; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A contender's output for one case.

    Attributes:
        frames: Label to scores, float32 (frames,); labels that the contender does not support are absent.
        whole: Figures of the whole sound by name, such as `snr_db`, `bak`, `noise_ratio`.
    """

    frames: Mapping[str, Float32] = field(default_factory=dict)
    whole: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contender:
    """A detector to be measured.

    Args:
        name: Name in reports.
        judge: Scores cases, in the given order.
        enter: Enter threshold by label; empty if scores only rank.
        contract: Contract of a model of this project, else None.
        latency_s: Maximum delay between the end of a frame and its score.
    """

    name: str
    judge: Callable[[Sequence[Case]], list[Judgement]]
    enter: Mapping[str, float] = field(default_factory=dict)
    contract: ModelContract | None = None
    latency_s: float = 0.0

    @property
    def ranks_only(self) -> bool:
        """Whether scores only rank: they are not probabilities, and `snr_db` has no scale."""
        return self.contract is None and not self.enter


def model_contender(contract: ModelContract, score: Callable[[Float32], Float32], name: str = "") -> Contender:
    """Return a contender for a model of this project.

    Args:
        contract: Contract of the model.
        score: Feature rows (N, T, F) to scores (N, T / 2 - lookahead, C), row j for frame j.
        name: Name in reports; by default the model's name and version.
    """
    front_end = FrontEnd(contract.features)

    def judge(cases: Sequence[Case]) -> list[Judgement]:
        judged: dict[int, Judgement] = {}
        by_length: dict[int, list[int]] = defaultdict(list)
        for i, case in enumerate(cases):
            by_length[case.frames].append(i)
        for members in by_length.values():
            size = max(1, min(BATCH, BATCH_FRAMES // max(1, cases[members[0]].frames)))
            for start in range(0, len(members), size):
                chosen = members[start : start + size]
                scores = score(model_features([cases[i].samples for i in chosen], contract, front_end))
                for i, rows in zip(chosen, scores, strict=True):
                    judged[i] = _judgement(contract, rows, cases[i])
        return [judged[i] for i in range(len(cases))]

    enter = {label.name: label.enter for label in contract.labels if label.enter is not None}
    return Contender(name or f"{contract.name} {contract.version}", judge, enter, contract, contract.latency_s)


def model_features(sounds: Sequence[Float32], contract: ModelContract, front_end: FrontEnd) -> Float32:
    """Return feature rows of sounds of equal length, padded with mirrored sound so that every frame gets a score."""
    spec = contract.features
    extra = spec.overlap_samples + contract.lookahead_frames * spec.frame_samples
    padded = [np.pad(samples, (0, extra), mode="symmetric") for samples in sounds]
    return front_end(np.stack(padded))


def _judgement(contract: ModelContract, rows: Float32, case: Case) -> Judgement:
    rows = np.ascontiguousarray(rows[: case.frames])
    meter = SummaryMeter(contract)
    meter.push(rows, frame_levels_dbfs(case.samples, contract.features))
    summary = meter.result()
    whole = {name: value for name in SUMMARY_FIGURES if (value := getattr(summary, name)) is not None}
    return Judgement(dict(zip(contract.label_names, rows.T, strict=True)), whole)


def energy_contender() -> Contender:
    """Return the energy baseline (`training.baseline`), which has no thresholds."""
    spec = FeatureSpec()
    front_end = FrontEnd(spec)

    def judge(cases: Sequence[Case]) -> list[Judgement]:
        results = []
        for case in cases:
            padded = np.pad(case.samples, (0, spec.overlap_samples), mode="symmetric")
            scores = energy_scores(front_end(padded[None]), spec)
            frames = {label: value[0].astype(np.float32) for label, value in scores.items()}
            level = frame_levels_dbfs(case.samples, spec)
            whole = {"snr_db": float(np.percentile(level, 95) - np.percentile(level, 5))}
            results.append(Judgement(frames, whole))
        return results

    return Contender("energy", judge)


def wada_contender() -> Contender:
    """Return WADA-SNR of the whole sound as a contender."""
    return Contender("wada", lambda cases: [Judgement({}, {"snr_db": wada_snr_db(case.samples)}) for case in cases])


def peer_contender(name: str, python: Path | None = None) -> Contender:
    """Return a third-party detector as a contender.

    Args:
        name: One of `training.peers.PEERS`.
        python: Interpreter that has the detector's packages; by default this one.
    """

    def judge(cases: Sequence[Case]) -> list[Judgement]:
        with TemporaryDirectory() as folder:
            given, made = Path(folder) / "in.npz", Path(folder) / "out.npz"
            sounds = {str(i): case.samples for i, case in enumerate(cases)}
            np.savez(given, allow_pickle=False, **sounds)
            command = [str(python or sys.executable), peers.__file__, name, str(given), str(made)]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=PEER_DEADLINE_S, check=False)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise PeerError(f"{name} could not be run: {error}") from error
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise PeerError(f"{name} failed in {command[0]}: {reason}")
            with np.load(made) as results:
                return [_peer_judgement(i, case, results) for i, case in enumerate(cases)]

    labels, latency_s = PEER_LABELS[name]
    return Contender(name, judge, dict.fromkeys(labels, PEER_THRESHOLD), latency_s=latency_s)


def _peer_judgement(number: int, case: Case, results: Mapping[str, NDArray[np.floating]]) -> Judgement:
    of_frames, of_whole = f"{number}/", f"{number}:"
    frames = {key.removeprefix(of_frames): results[key] for key in results if key.startswith(of_frames)}
    whole = {key.removeprefix(of_whole): float(results[key]) for key in results if key.startswith(of_whole)}
    wrong = [name for name, scores in frames.items() if len(scores) != case.frames]
    if wrong:
        raise PeerError(f"expected {case.frames} frames of {case.name}, got a different number for {', '.join(wrong)}")
    return Judgement({name: np.asarray(scores, np.float32) for name, scores in frames.items()}, whole)


def baseline_contender(name: str, python: Path | None = None) -> Contender:
    """Return a baseline by name, one of `BASELINES`."""
    own = {"energy": energy_contender, "wada": wada_contender}
    return own[name]() if name in own else peer_contender(name, python)


def scored(cases: Sequence[Case], judgements: Sequence[Judgement], label: str) -> Sequence[Float32] | None:
    """Return one label's scores of every case; None if the contender does not support the label.

    The score of disturbance is the higher one of noise and interference.
    """
    if label == DISTURBANCE:
        pair = [scored(cases, judgements, part) for part in ("noise", "interference")]
        return None if pair[0] is None or pair[1] is None else [np.maximum(a, b) for a, b in zip(*pair, strict=True)]
    if not judgements or any(label not in judgement.frames for judgement in judgements):
        return None
    return [judgement.frames[label][: case.frames] for case, judgement in zip(cases, judgements, strict=True)]
