"""`speech_qc.lhotse` with the real Lhotse: eager and lazy sets, several channels, serialization."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from signals import white_noise
from speech_qc.embedded.detector import Detector
from speech_qc.errors import ProtocolError
from speech_qc.lhotse import annotate, annotate_cut

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    lhotse = pytest.importorskip("lhotse", reason="install the extra lhotse")
pytestmark = pytest.mark.slow  # importing lhotse takes seconds

RATE_HZ = 16_000
LOUD, QUIET = white_noise(2.0, level_dbfs=-12), white_noise(2.0, level_dbfs=-30)
"""The echo model scores both as speech."""


def recording(path: Path, samples: np.ndarray) -> Any:
    soundfile.write(path, samples, RATE_HZ)
    return lhotse.Recording.from_file(path)


def test_scores_are_in_custom_and_survive_serialization(tmp_path: Path):
    cuts = lhotse.CutSet.from_cuts(
        recording(tmp_path / f"{name}.wav", signal).to_cut() for name, signal in (("loud", LOUD), ("quiet", QUIET))
    )

    annotate(cuts).to_file(tmp_path / "cuts.jsonl.gz")

    found = lhotse.CutSet.from_file(tmp_path / "cuts.jsonl.gz")
    assert [cut.qc_status for cut in found] == ["fail", "pass"]
    assert [cut.id for cut in found.filter(lambda cut: cut.qc_status == "pass")] == ["quiet"]
    lhotse.validate(found.to_eager())


def test_only_the_span_of_the_cut_is_inspected(tmp_path: Path, echo_detector: Detector):
    whole = recording(tmp_path / "both.wav", np.concatenate([LOUD, QUIET])).to_cut()
    cut = whole.truncate(offset=2.0, duration=2.0)

    found = annotate_cut(cut)

    expected = echo_detector.inspect(QUIET, sample_rate=RATE_HZ).channels[0]
    assert annotate_cut(whole).qc_status == "fail"
    assert found.qc_status == "pass"
    assert found.qc_rms_dbfs == pytest.approx(expected.levels.rms_dbfs, abs=0.01)  # the file has 16 bits
    assert len(found.supervisions) == len(expected.events) > 0
    assert found.supervisions[0].start < 2.0, "times count from the start of the cut"


def test_events_are_supervisions_and_others_stay(tmp_path: Path):
    cut = recording(tmp_path / "a.wav", LOUD).to_cut()
    cut.supervisions = [lhotse.SupervisionSegment("s", cut.recording_id, 0.0, 1.0, text="hello", custom={"k": 1})]
    cut.custom = {"trunk": "north"}

    once = annotate_cut(cut)
    twice = annotate_cut(once)

    assert once.trunk == "north"
    assert once.supervisions[0].text == "hello"
    events = once.supervisions[1:]
    assert events and all(one.start >= 0 and one.end <= cut.duration + 1e-6 for one in events)
    assert {one.qc_severity for one in events} <= {"minor", "moderate", "severe"}
    assert twice.supervisions == once.supervisions, "a second annotation replaces the first"
    assert cut.custom == {"trunk": "north"} and len(cut.supervisions) == 1, "the original is not changed"
    assert len(annotate_cut(cut, supervisions=False).supervisions) == 1


def test_channels_of_a_multi_cut(tmp_path: Path):
    cut = recording(tmp_path / "stereo.wav", np.stack([QUIET, LOUD], axis=1)).to_cut()
    right = cut.with_channels([1])

    assert annotate_cut(cut).qc_channel == 1
    assert {one.channel for one in annotate_cut(cut).supervisions} == {0, 1}
    assert {one.channel for one in annotate_cut(right).supervisions} == {1}
    assert all(one.channel == [0, 1] for one in annotate_cut(cut, channels="mix").supervisions)


def test_a_lazy_set_is_inspected_when_it_is_read(tmp_path: Path):
    path = tmp_path / "gone.wav"
    lhotse.CutSet.from_cuts([recording(path, LOUD).to_cut()]).to_file(tmp_path / "cuts.jsonl.gz")
    lazy = annotate(lhotse.CutSet.from_jsonl_lazy(tmp_path / "cuts.jsonl.gz"))
    path.unlink()

    (cut,) = lazy

    assert cut.qc_status is None
    assert "gone.wav" in cut.qc_error


def test_what_cannot_be_annotated_says_what_to_do(tmp_path: Path):
    cut = recording(tmp_path / "a.wav", LOUD).to_cut()
    with pytest.raises(ProtocolError, match="before they are mixed"):
        annotate_cut(cut.pad(duration=3.0))
    with pytest.raises(ProtocolError, match="nosuch"):
        annotate(lhotse.CutSet.from_cuts([cut]), profile="nosuch")
