"""Label tracks are read back as written, and errors in them are reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import soundfile

from speech_qc.scoring import EXPORTS, ChannelReport, Event, Report
from training.evaluation.cases import MaterialError, labelled_cases, paint, rated_cases
from training.evaluation.tracks import Span, TrackError, read_track


def event(label: str, onset_s: float, offset_s: float) -> Event:
    return Event(0, label, "noise", onset_s, offset_s, 0.9, 0.8, "severe", round(onset_s * 50), round(offset_s * 50))


def write_sound(path: Path, seconds: float, channels: int = 1, rate_hz: int = 16_000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = np.random.default_rng(0).normal(0.0, 0.05, (round(seconds * rate_hz), channels))
    soundfile.write(path, sound, rate_hz)


@pytest.mark.parametrize("name", ["audacity", "rttm", "webvtt", "csv"])
@pytest.mark.parametrize("channels", [1, 2])
def test_what_the_service_exports_is_read_back(name: str, channels: int, tmp_path: Path) -> None:
    events = [event("noise", 0.5, 1.25), event("tone", 1.0, 3.5)]
    report = Report("call.wav", 4.0, [ChannelReport(i, events) for i in range(channels)])
    path = tmp_path / f"call.{EXPORTS[name].extension}"
    path.write_text("".join(EXPORTS[name].render(report)), encoding="utf-8", newline="")
    spans = read_track(path)
    assert len(spans) == 2 * channels
    assert {(s.label, round(s.onset_s, 3), round(s.offset_s, 3)) for s in spans} == {
        ("noise", 0.5, 1.25),
        ("tone", 1.0, 3.5),
    }
    assert all(span.sure for span in spans)
    if channels == 2:
        assert [s.channel for s in spans if s.label == "noise"] == [0, 1]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "0.0\t1.0\tnosie\n", "line 1: expected one of speech, noise"),
        ("a.txt", "0.0 1.0 noise\n", "separated by tabs"),
        ("a.txt", "2.0\t1.0\tnoise\n", "expected 0 <= onset <= offset"),
        ("a.csv", "label,start,end\nnoise,0,1\n", "expected the columns label, onset, offset"),
        ("a.csv", "label,onset,offset\nnoise,zero,1\n", "line 2: expected a time, got 'zero'"),
        ("a.vtt", "00:00.000 --> 00:01.000\nnoise\n", "expected WEBVTT"),
        ("a.rttm", "SPEAKER a 1 0.0\n", "8 fields"),
        ("a.eaf", "", "expected a label track"),
    ],
)
def test_a_mistake_is_named_with_file_and_line(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(TrackError, match=message) as caught:
        read_track(tmp_path / name)
    assert name in str(caught.value)


def test_frames_belong_to_the_span_over_their_middle_and_open_spans_do_not_count() -> None:
    spans = [Span("noise", 0.10, 0.20), Span("noise", 0.15, 0.30, sure=False), Span("tone", 0.0, 1.0)]
    target, mask = paint(spans, ("noise", "speech"), 20)
    assert np.flatnonzero(target[:, 0]).tolist() == [5, 6, 7, 8, 9]
    assert np.flatnonzero(~mask[:, 0]).tolist() == [10, 11, 12, 13, 14]
    assert not target[:, 1].any()
    assert mask[:, 1].all()


def test_a_folder_gives_a_case_per_channel_and_judges_only_what_was_listened_for(tmp_path: Path) -> None:
    write_sound(tmp_path / "calls/a.wav", 1.0, channels=2, rate_hz=8_000)
    (tmp_path / "calls/a.rttm").write_text("SPEAKER a 2 0.2 0.4 <NA> <NA> noise 1.0 <NA>\n", encoding="utf-8")
    write_sound(tmp_path / "b.wav", 1.01)
    (tmp_path / "b.txt").write_text("0.0\t0.5\tspeech\n", encoding="utf-8")
    write_sound(tmp_path / "no_track.wav", 1.0)
    (tmp_path / "facts.csv").write_text("path,language\nb.wav,hsb\n", encoding="utf-8")
    by_name = {case.name: case for case in labelled_cases(tmp_path)}
    assert set(by_name) == {"b.wav", "calls/a.wav, channel 0", "calls/a.wav, channel 1"}
    left, right, b = (by_name[name] for name in ("calls/a.wav, channel 0", "calls/a.wav, channel 1", "b.wav"))
    noise, speech = left.labels.index("noise"), left.labels.index("speech")
    assert left.frames == b.frames == 50
    assert not left.target.any()
    assert np.flatnonzero(right.target[:, noise]).tolist() == list(range(10, 30))
    assert right.mask[:, noise].all()
    assert not right.mask[:, speech].any()  # it is unknown whether speech was annotated
    assert b.target[:, speech].sum() == 25
    assert b.facts == {"language": ("hsb",)}
    assert left.facts == {"source": ("calls",)}
    listened = labelled_cases(tmp_path, ["noise", "speech"])
    assert all(case.mask.all() for case in listened)


def test_a_folder_without_tracks_and_a_wrong_ratings_file_say_what_they_need(tmp_path: Path) -> None:
    write_sound(tmp_path / "a.wav", 1.0)
    with pytest.raises(MaterialError, match="expected recordings with label tracks"):
        labelled_cases(tmp_path)
    ratings = tmp_path / "ratings.csv"
    ratings.write_text("file,mos\na.wav,3\n", encoding="utf-8")
    with pytest.raises(MaterialError, match="expected the columns path and any of sig, bak, ovrl"):
        rated_cases(ratings)
    ratings.write_text("path,bak,condition\na.wav,3.5,quiet\n", encoding="utf-8")
    (case,) = rated_cases(ratings)
    assert case.ratings == {"bak": 3.5}
    assert case.facts == {"condition": ("quiet",)}
