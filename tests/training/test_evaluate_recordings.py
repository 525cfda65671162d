"""Clean recordings are judged as they were made: by kind of microphone, with the clicks at their edges apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from judged_cases import case
from made_corpus import made_pool, row, seconds, stem, talk, write_manifest, write_sound

from speech_qc.engine import echo_contract
from training.corpora.manifest import COLUMNS, ManifestError, read_manifest
from training.corpora.taxonomy import (
    AMBIGUOUS,
    STEADY_CLASSES,
    VOCAL_CLASSES,
    judged_meaning,
    known_classes,
    meaning_of,
    microphone_of,
)
from training.evaluation.cases import MaterialError, mixed_case, teacher_cases
from training.evaluation.contenders import Contender, Judgement
from training.evaluation.recordings import recorded_cases, recording_figures
from training.mixing.plan import MixPlan, Part, SourcePlan
from training.model import FIRST_LABELS
from training.mos import MOS_LABELS, MosClips, write
from training.mos_targets import TEACHER_COLUMNS

CONTRACT = echo_contract()


def quiet(length_s: float, seed: int) -> np.ndarray:
    """Generate speech with pauses near digital silence: a range far above 45 dB."""
    hiss = np.random.default_rng(seed).normal(0.0, 1e-5, int(length_s * 16_000))
    return talk(length_s, 140.0, seed) * ((seconds(length_s) % 1.0) < 0.6) + hiss.astype(np.float32)


def test_only_clean_speech_is_read_and_sorted_by_microphone(tmp_path: Path) -> None:
    rows = []
    for name, source, samples in (
        ("a", "LibriSpeech", quiet(2.0, 1)),
        ("b", "Common-Voice-de", quiet(2.0, 2)),
        ("c", "Common-Voice-de", quiet(2.0, 3) + np.random.default_rng(3).normal(0.0, 0.003, 32_000)),
        ("d", "Google-Speech-Commands", quiet(2.0, 4)),
    ):
        write_sound(tmp_path / f"{name}.wav", samples)
        rows.append(row(f"{name}.wav", "speech", "valid", source=source))
    write_sound(tmp_path / "fan.wav", quiet(2.0, 5))
    rows.append(row("fan.wav", "noise", "valid"))
    rows.append(row("missing.wav", "speech", "valid", source="LibriSpeech"))
    write_manifest(tmp_path, rows)
    found = recorded_cases(tmp_path, read_manifest(tmp_path), seed=1)
    assert {kind: sorted(c.name for c in cases) for kind, cases in found.items()} == {
        "crowd": ["b.wav", "d.wav"],  # c has a noise floor
        "studio": ["a.wav"],
    }
    assert found["studio"][0].frames == 100


def test_the_minutes_are_shared_by_the_speakers(tmp_path: Path) -> None:
    rows = []
    for number in range(12):
        speaker = "many" if number < 10 else f"one{number}"
        write_sound(tmp_path / f"{number}.wav", quiet(2.0, number))
        rows.append(row(f"{number}.wav", "speech", "valid", speaker=speaker))
    write_manifest(tmp_path, rows)
    chosen = recorded_cases(tmp_path, read_manifest(tmp_path), seed=1, minutes=6.5 / 60)["studio"]
    assert len(chosen) == 3
    assert {"10.wav", "11.wav"} < {c.name for c in chosen}


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"source": "LJSpeech"}, "studio"),
        ({"source": "Common-Voice 6.1"}, "crowd"),
        ({"source": "Arabic-Speech-Commands"}, "crowd"),
        ({"source": "Common-Voice", "sample_rate_hz": 8000}, "phone"),
        ({"source": "LJSpeech", "microphone": "crowd"}, "crowd"),
    ],
)
def test_the_manifest_comes_before_the_rate_and_the_source(changes: dict[str, str], kind: str) -> None:
    assert microphone_of(stem("speech", speaker="ann", **changes)) == kind


def test_an_unknown_kind_of_microphone_is_refused(tmp_path: Path) -> None:
    write_manifest(tmp_path, [row("a.wav", "speech", microphone="headset")], (*COLUMNS, "microphone"))
    with pytest.raises(ManifestError, match="microphone must be one of studio, crowd, phone, or empty, got 'headset'"):
        read_manifest(tmp_path)


def test_events_at_the_edges_are_counted_apart() -> None:
    spans = {
        "noise": [(0, 20), (100, 140), (480, 500)],
        "transient_noise": [(130, 160), (300, 340)],
        "tone": [(200, 240)],
        "speech": [(0, 500)],
    }
    frames = {name: np.zeros(500, np.float32) for name in CONTRACT.label_names}
    for label, pairs in spans.items():
        for start, stop in pairs:
            frames[label][start:stop] = 0.9
    contender = Contender("made", lambda _cases: [Judgement(frames, {})], {"noise": 0.5}, CONTRACT)
    rate = 3600 / 10.0
    assert recording_figures(contender, {"studio": [case(frames=500)]}) == {
        "studio": {
            "recordings": 1,
            "hours": 0.0028,
            "noise_events_per_hour": 2 * rate,  # overlapping causes count once
            "edge_noise_events_per_hour": 2 * rate,
            "events_per_hour_by_label": {"noise": 3 * rate, "transient_noise": 2 * rate, "tone": rate},
        }
    }
    frames["noise"][:] = 0.9  # a noise that lasts is not a click, although it touches both edges
    whole = recording_figures(contender, {"studio": [case(frames=500)]})["studio"]
    assert (whole["noise_events_per_hour"], whole["edge_noise_events_per_hour"]) == (rate, 0.0)
    assert recording_figures(Contender("ranks", contender.judge), {"studio": [case(frames=500)]}) == {}


def test_classes_of_the_figures_are_classes_of_the_table() -> None:
    assert known_classes() >= AMBIGUOUS | STEADY_CLASSES | VOCAL_CLASSES
    assert all("stationary_noise" in meaning_of(name).yes for name in STEADY_CLASSES)
    assert {"coughing", "laughing", "crying_baby"} <= VOCAL_CLASSES


def test_an_alarm_is_a_disturbance_and_neither_noise_nor_interference() -> None:
    pool = made_pool()
    pool.recordings[2] = type(pool.recordings[2])(stem("noise", "clock_alarm"), pool.recordings[2].samples, -80.0)
    alarm = SourcePlan("recording", meaning_of("clock_alarm"), -6.0, (16_000, 48_000), 0, 3, parts=(Part(2, 16_000),))
    plan = MixPlan(1, 64_000, (Part(0, 0), Part(0, 32_000)), -24.0, None, None, (alarm,))
    made = mixed_case("alarm", plan, pool)
    inside = slice(60, 140)
    for label, value, counts in (("disturbance", 1.0, True), ("noise", 0.0, False), ("interference", 0.0, False)):
        column = made.labels.index(label)
        assert (made.target[inside, column] == value).all(), label
        assert (made.mask[inside, column] == counts).all(), label
        assert made.mask[:40, column].all(), label
    assert judged_meaning("fan") is meaning_of("fan")


def test_teachers_scores_stand_in_for_ratings(tmp_path: Path) -> None:
    from training.config import DataConfig

    with pytest.raises(MaterialError, match="expected rated clips of the split valid in"):
        teacher_cases(tmp_path)
    write(tmp_path, "valid", made_pool(), DataConfig(clip_seconds=3.0), FIRST_LABELS, 3)
    np.save(tmp_path / "valid.scores.npy", np.full((2, TEACHER_COLUMNS), 3.0, np.float32))
    cases, rated = teacher_cases(tmp_path), MosClips(tmp_path, "valid", MOS_LABELS)
    assert [c.frames for c in cases] == [150, 150]  # the teacher has not rated the third
    for number, one in enumerate(cases):
        assert list(one.ratings.values()) == pytest.approx(rated.value[number, 0].tolist())
        assert 0.01 < np.abs(one.samples).max() <= 1.0
