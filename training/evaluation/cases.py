"""Material with ground truth: mixtures of a corpus, hand-labelled recordings, clips rated by people.

A case is one sound with a target and a mask per frame, plus facts by which figures are grouped. Contenders receive only
the samples.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from tqdm import tqdm

from speech_qc.contract import LABEL_CATALOG
from training.config import ConfigError
from training.corpora.manifest import MANIFEST_NAME
from training.corpora.taxonomy import DISTURBANCE, judged_meaning
from training.evaluation.tracks import READERS, Span, TrackError, read_track
from training.material import Condition, draw_plans
from training.mixing import targets
from training.mixing.channel import ChannelPlan
from training.mixing.plan import MixPlan, Pool, SourcePlan
from training.mixing.render import Mixture, render
from training.mos import MOS_LABELS, MosClips

Float32 = NDArray[np.float32]
Bool = NDArray[np.bool_]

RATE_HZ = 16_000
FRAME_SAMPLES = 320
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
RATINGS = ("sig", "bak", "ovrl")
FACTS_FILE = "facts.csv"
JUDGED_LABELS = (*(name for name, (_, kind) in LABEL_CATALOG.items() if kind != "mos"), DISTURBANCE)
"""Labels that mixtures have ground truth for, whatever the labels of the model under test."""


class MaterialError(Exception):
    """A folder or a ratings file cannot be used; the message says what was expected."""


@dataclass(frozen=True, slots=True)
class Case:
    """One sound and its ground truth.

    Attributes:
        name: For messages.
        samples: float32 (n,), 16 kHz, whole frames.
        labels: Columns of target and mask.
        target: float32 (n / 320, C).
        mask: bool (n / 320, C), False where listeners would disagree or there is no annotation.
        facts: Values by which figures are grouped, for instance `language`.
        snr_db: SNR of the whole sound as the service's summary defines it; None if unknown.
        ratings: Mean opinion scores given by people, `sig`, `bak`, `ovrl`.
    """

    name: str
    samples: Float32
    labels: tuple[str, ...] = ()
    target: Float32 = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    mask: Bool = field(default_factory=lambda: np.zeros((0, 0), bool))
    facts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    snr_db: float | None = None
    ratings: Mapping[str, float] = field(default_factory=dict)

    @property
    def frames(self) -> int:
        """Number of whole frames."""
        return len(self.samples) // FRAME_SAMPLES

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return len(self.samples) / RATE_HZ


def mixed_cases(pool: Pool, samples: int, seed: int, count: int, condition: Condition) -> list[Case]:
    """Render the mixtures that `make_material` draws for a condition, but keep their samples.

    Unlike in training, sounds that listeners may call noise or interference count only as disturbance.

    Raises:
        ValueError: The pool hardly ever meets the condition.
    """
    plans = draw_plans(pool, samples, seed, count, condition)
    bar = tqdm(plans, desc=condition.name, unit="mix")
    return [mixed_case(f"{condition.name} {i}", plan, pool) for i, plan in enumerate(bar)]


def mixed_case(name: str, plan: MixPlan, pool: Pool) -> Case:
    """Render a plan as a case with all labels that stems give ground truth for."""
    mixture = render(replace(plan, sources=tuple(_judged_source(source, pool) for source in plan.sources)), pool)
    frames = len(mixture.samples) // FRAME_SAMPLES
    judged = [mixture.targets[label] for label in JUDGED_LABELS]
    target = np.stack([each.value[:frames] for each in judged], axis=1).astype(np.float32)
    mask = np.stack([each.mask[:frames] for each in judged], axis=1)
    samples = mixture.samples[: frames * FRAME_SAMPLES]
    return Case(name, samples, JUDGED_LABELS, target, mask, mixture_facts(plan, pool), whole_snr_db(mixture))


def _judged_source(source: SourcePlan, pool: Pool) -> SourcePlan:
    if source.kind != "recording":
        return source
    return replace(source, meaning=judged_meaning(pool.recordings[source.parts[0].recording].stem.sound_class))


def followed_cases(cases: Sequence[Case]) -> list[Case]:
    """Append every second case to the case before it; only the second part of each sound is scored.

    The state that a detector carries over from another talker, room or line must not degrade its scores for the next.
    """
    pairs = zip(cases[::2], cases[1::2], strict=False)
    return [
        Case(
            f"{second.name} after {first.name}",
            np.concatenate([first.samples, second.samples]),
            second.labels,
            np.concatenate([first.target, second.target]),
            np.concatenate([np.zeros_like(first.mask), second.mask]),
        )
        for first, second in pairs
    ]


def mixture_facts(plan: MixPlan, pool: Pool) -> dict[str, tuple[str, ...]]:
    """Describe a mixture: language and source of the talker, line, disturbances and their sources."""
    talkers = [pool.recordings[part.recording].stem for part in plan.speech]
    noises = [pool.recordings[part.recording].stem for source in plan.sources for part in source.parts]
    disturbances = []
    for source in plan.sources:
        if source.kind == "synth":
            disturbances.append(source.synth)
        elif source.kind == "recording":
            disturbances += [pool.recordings[part.recording].stem.sound_class for part in source.parts[:1]]
        else:
            disturbances.append(source.kind)
    return {
        "language": _distinct(stem.language or "not stated" for stem in talkers),
        "source": _distinct(stem.source for stem in talkers),
        "disturbance source": _distinct(stem.source for stem in noises if stem.kind != "speech"),
        "line": (line_name(plan.channel),),
        "band": ("telephone" if plan.channel.narrow else "wide band",),
        "disturbance": _distinct(disturbances) or ("none",),
    }


def line_name(channel: ChannelPlan) -> str:
    """Name a line by its band and codec."""
    codecs = [name for name in (channel.law, channel.codec) if name]
    return ", ".join(["telephone" if channel.narrow else "wide band", *codecs])


def whole_snr_db(mixture: Mixture) -> float | None:
    """Return mean speech energy in speech frames over mean other energy in all frames, dB; None without speech."""
    speech = mixture.targets["speech"]
    speaks = (speech.value > 0.5) & speech.mask
    if not speaks.any():
        return None
    other = sum(energy for name, energy in mixture.stems.items() if name == "floor" or name.startswith("source"))
    count = min(len(speaks), len(mixture.stems["speech"]))
    ratio = targets.to_db(np.asarray([mixture.stems["speech"][:count][speaks[:count]].mean(), np.mean(other)]))
    return float(np.clip(ratio[0] - ratio[1], targets.SNR_LOW_DB, targets.SNR_HIGH_DB))


def labelled_cases(folder: Path, labels: Sequence[str] | None = None) -> list[Case]:
    """Read recordings with label tracks of the same name next to them.

    Figures are grouped by the columns of `facts.csv` other than `path`, or by sub-folder if there is no such file.

    Args:
        folder: Searched recursively; recordings without a track are left out. An empty track means that no label is
            present.
        labels: Labels that were annotated in every recording; a label that a track does not name is absent there. By
            default a label counts only in recordings whose tracks name it, because it is unknown whether it was
            annotated in the others.

    Raises:
        MaterialError: There is no recording with a track, or one cannot be read.
    """
    found = [(audio, track) for audio in _audio_files(folder) if (track := _track_of(audio)) is not None]
    if not found:
        raise MaterialError(
            f"expected recordings with label tracks ({', '.join(READERS)}) of the same name below {folder}"
        )
    try:
        spans = [read_track(track) for _, track in found]
    except TrackError as error:
        raise MaterialError(str(error)) from error
    names = tuple(labels) if labels else tuple(dict.fromkeys(span.label for rows in spans for span in rows))
    if not names:
        raise MaterialError(f"no track below {folder} names a label: pass the annotated labels with --labels")
    facts = _facts(folder)
    cases: list[Case] = []
    for (audio, _), rows in zip(found, spans, strict=True):
        inside = audio.relative_to(folder).as_posix()
        known = facts.get(inside, {"source": (audio.parent.name,)})
        for channel, samples in enumerate(channels := read_channels(audio)):
            mine = [span for span in rows if span.channel in (None, channel)]
            target, mask = paint(mine, names, len(samples) // FRAME_SAMPLES)
            if not labels:
                mask[:, [label not in {span.label for span in rows} for label in names]] = False
            if {"noise", "interference"} <= set(names):
                target, mask = _with_disturbance(names, target, mask)
            name = inside if len(channels) == 1 else f"{inside}, channel {channel}"
            columns = names if target.shape[1] == len(names) else (*names, DISTURBANCE)
            cases.append(Case(name, samples, columns, target, mask, known))
    return cases


def _with_disturbance(labels: Sequence[str], target: Float32, mask: Bool) -> tuple[Float32, Bool]:
    """Append the column of disturbance: 1 where noise or interference is, 0 where surely neither is."""
    pair = [list(labels).index(label) for label in ("noise", "interference")]
    yes = ((target[:, pair] > 0.5) & mask[:, pair]).any(axis=1, keepdims=True)
    sure = yes | mask[:, pair].all(axis=1, keepdims=True)
    return np.hstack([target, yes.astype(np.float32)]), np.hstack([mask, sure])


def paint(spans: Sequence[Span], labels: Sequence[str], frames: int) -> tuple[Float32, Bool]:
    """Turn spans into target and mask, (frames, C); a frame belongs to a span that covers its centre."""
    target, mask = np.zeros((frames, len(labels)), np.float32), np.ones((frames, len(labels)), bool)
    middle_s = (np.arange(frames) + 0.5) * FRAME_SAMPLES / RATE_HZ
    for span in sorted(spans, key=lambda span: span.sure):  # sure spans override unsure ones
        if span.label in labels:
            inside = (middle_s >= span.onset_s) & (middle_s < span.offset_s)
            column = list(labels).index(span.label)
            mask[inside, column] = span.sure
            target[inside, column] = span.sure
    return target, mask


def rated_cases(path: Path) -> list[Case]:
    """Read clips with human ratings: CSV with `path` (relative to the file) and any of `sig`, `bak`, `ovrl`.

    Other columns group the figures. Ratings are also averaged over `condition`.

    Raises:
        MaterialError: The file is not such a CSV, or a clip cannot be read.
    """
    rows = _rows(path)
    if not rows or "path" not in rows[0] or not set(RATINGS) & set(rows[0]):
        raise MaterialError(f"{path}: expected the columns path and any of {', '.join(RATINGS)}, and a row per clip")
    cases = []
    for number, row in enumerate(rows, start=2):
        try:
            ratings = {name: float(row[name]) for name in RATINGS if row.get(name)}
        except ValueError as error:
            raise MaterialError(f"{path}, line {number}: expected numbers as ratings: {error}") from error
        facts = {name: (value,) for name, value in row.items() if name not in ("path", *RATINGS) and value}
        mono = np.asarray(np.mean(read_channels(path.parent / row["path"]), axis=0), dtype=np.float32)
        cases.append(Case(row["path"], mono, facts=facts, ratings=ratings))
    return cases


def teacher_cases(folder: Path) -> list[Case]:
    """Read the held-out rated clips of `training.mos`; their ratings are the teachers' scores, not people's.

    Raises:
        MaterialError: The folder has no rated clips of the split `valid`.
    """
    path = folder / "valid.samples.npy"
    try:
        rated, clips = MosClips(folder, "valid", MOS_LABELS), np.load(path, mmap_mode="r")
    except (ConfigError, OSError, ValueError) as error:
        raise MaterialError(f"expected rated clips of the split valid in {folder}: {error}") from error
    cases = []
    for number in range(len(rated)):
        samples = np.asarray(clips[number], np.float32) / 32768.0
        frames = len(samples) // FRAME_SAMPLES
        ratings = {name: float(rated.value[number, 0, column]) for column, name in enumerate(MOS_LABELS)}
        cases.append(Case(f"clip {number}", samples[: frames * FRAME_SAMPLES], ratings=ratings))
    return cases


def read_channels(path: Path) -> list[Float32]:
    """Read a recording as whole frames at 16 kHz, one array per channel.

    Raises:
        MaterialError: The file is not readable or is shorter than a frame.
    """
    try:
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.LibsndfileError) as error:
        raise MaterialError(f"cannot read {path}: {error}") from error
    if rate_hz != RATE_HZ:
        samples = soxr.resample(samples, rate_hz, RATE_HZ).astype(np.float32)
    count = len(samples) // FRAME_SAMPLES * FRAME_SAMPLES
    if count == 0:
        raise MaterialError(f"{path}: expected at least 20 ms of sound")
    return [np.ascontiguousarray(samples[:count, channel]) for channel in range(samples.shape[1])]


def _audio_files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in AUDIO_SUFFIXES)


def _track_of(audio: Path) -> Path | None:
    candidates = (audio.with_suffix(suffix) for suffix in READERS)
    return next((path for path in candidates if path.is_file() and path.name not in (FACTS_FILE, MANIFEST_NAME)), None)


def _facts(folder: Path) -> dict[str, dict[str, tuple[str, ...]]]:
    path = folder / FACTS_FILE
    if not path.is_file():
        return {}
    rows = _rows(path)
    if rows and "path" not in rows[0]:
        raise MaterialError(f"{path}: expected a column named path")
    return {row.pop("path"): {name: (value,) for name, value in row.items() if value} for row in rows}


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [dict(row) for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError) as error:
        raise MaterialError(f"cannot read {path}: {error}") from error


def _distinct(values: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))
