import csv
import html
import io
import itertools
import re
from collections.abc import Callable, Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from speech_qc.scoring import EXPORTS, ChannelReport, Event, Report, frames_csv

NASTY = 'say "hi", a --> b;\t<c> & d\r\n\x00 \u2028 é 語 \ud800'


def event(label: str, onset: int, offset: int | None, number: int = 0, score: float = 0.875) -> Event:
    return Event(
        event_id=number,
        label=label,
        family="noise",
        onset_s=onset * 320 / 16000,
        offset_s=None if offset is None else offset * 320 / 16000,
        score_max=min(1.0, score + 0.1),
        score_mean=score,
        severity=("minor", "moderate", "severe")[number % 3],
        onset_frame=onset,
        offset_frame=offset,
    )


@st.composite
def reports(draw: st.DrawFn, label: st.SearchStrategy[str] | None = None) -> Report:
    """Strategy for reports like those of trackers: events of one label and channel neither overlap nor touch."""
    frames = draw(st.integers(1, 500_000))
    known = st.lists(st.sampled_from(["noise", "music", "clipping"]), unique=True, max_size=3)
    labels = draw(known) if label is None else [draw(label)]
    channels = []
    for channel in range(draw(st.integers(1, 3))):
        events: list[Event] = []
        for name in labels:
            edges = sorted(draw(st.sets(st.integers(0, frames), max_size=8)))
            for onset, offset in zip(edges[::2], edges[1::2], strict=False):
                events.append(event(name, onset, offset, len(events), draw(st.integers(0, 100)) / 100))
        channels.append(ChannelReport(channel, events))
    # The last frame is rarely complete, because the recording ends within it.
    return Report(draw(st.text(max_size=20)), frames * 0.02 - draw(st.integers(0, 19)) / 1000, channels)


def text_of(name: str, report: Report) -> str:
    return "".join(EXPORTS[name].render(report))


def expected(report: Report) -> list[tuple[int, str, float, float, str, float]]:
    """Return (channel, label, onset, offset, severity, mean score) of all events, sorted."""
    return sorted(
        (c.channel, e.label, round(e.onset_s, 6), round(e.offset_s or 0.0, 6), e.severity, round(e.score_mean, 2))
        for c in report.channels
        for e in c.events
    )


CAPTION = re.compile(r"(?:ch(\d+): )?(.*) \((\w+), ([0-9.]+)\)")


def read_caption(caption: str, onset: float, offset: float) -> tuple[int, str, float, float, str, float]:
    match = CAPTION.fullmatch(caption)
    assert match, caption
    return int(match[1] or 0), match[2], onset, offset, match[3], float(match[4])


# --- parsers ---------------------------------------------------------------------------------------------------------


def read_csv(text: str) -> list[tuple[int, str, float, float, str, float]]:
    rows = csv.DictReader(io.StringIO(text, newline=""))
    return sorted(
        (
            int(row["channel"]),
            row["label"],
            float(row["onset_s"]),
            float(row["offset_s"]),
            row["severity"],
            round(float(row["score_mean"]), 2),
        )
        for row in rows
    )


def read_audacity(text: str) -> list[tuple[int, str, float, float, str, float]]:
    found = []
    for line in text.splitlines():
        match = re.fullmatch(r"(\d+\.\d{6})\t(\d+\.\d{6})\t([^\t]+)", line)
        assert match, line
        found.append(read_caption(match[3], float(match[1]), float(match[2])))
    return sorted(found)


def read_rttm(text: str) -> list[tuple[str, ...]]:
    lines = [tuple(line.split(" ")) for line in text.splitlines()]
    assert all(len(line) == 10 and line == tuple(" ".join(line).split()) for line in lines)
    return lines


def read_webvtt(text: str) -> list[tuple[int, str, float, float, str, float]]:
    head, *cues = text.removesuffix("\n").split("\n\n")
    assert head.rstrip("\n") == "WEBVTT"

    def seconds(time: str) -> float:
        match = re.fullmatch(r"(\d{2,}):([0-5]\d):([0-5]\d)\.(\d{3})", time)
        assert match, time
        hours, minutes, whole, milliseconds = map(int, match.groups())
        return round(hours * 3600 + minutes * 60 + whole + milliseconds / 1000, 6)

    found, starts = [], []
    for cue in cues:
        timing, caption = cue.split("\n")
        start, stop = map(seconds, timing.split(" --> "))
        assert start < stop and "-->" not in caption and "<" not in caption
        starts.append(start)
        found.append(read_caption(html.unescape(caption), start, stop))
    assert starts == sorted(starts)
    return sorted(found)


def read_textgrid(text: str) -> tuple[str, dict[str, list[tuple[str, str, str]]]]:
    """Parse tokens like Praat: numbers, quoted strings and <flags>; everything else is ignored."""
    tokens = iter(re.findall(r'"(?:[^"]|"")*"|<\w+>|(?<![\w\[])\d+(?:\.\d+)?(?![\w\]])', text))

    def string() -> str:
        token = next(tokens)
        assert token[0] == token[-1] == '"', token
        return token[1:-1].replace('""', '"')

    assert string() == "ooTextFile" and string() == "TextGrid"
    assert next(tokens) == "0"
    end = next(tokens)
    assert next(tokens) == "<exists>"
    tiers = {}
    for _ in range(int(next(tokens))):
        assert string() == "IntervalTier"
        name = string()
        assert name not in tiers
        assert (next(tokens), next(tokens)) == ("0", end)
        tiers[name] = [(next(tokens), next(tokens), string()) for _ in range(int(next(tokens)))]
    assert next(tokens, None) is None
    return end, tiers


# --- claims ----------------------------------------------------------------------------------------------------------


@given(reports())
def test_csv_gives_back_every_event(report: Report) -> None:
    assert read_csv(text_of("csv", report)) == expected(report)


@given(reports())
def test_audacity_gives_back_every_event(report: Report) -> None:
    assert read_audacity(text_of("audacity", report)) == expected(report)


@given(reports())
def test_webvtt_gives_back_every_event(report: Report) -> None:
    assert read_webvtt(text_of("webvtt", report)) == expected(report)


@given(reports())
def test_rttm_has_ten_fields_and_gives_back_every_event(report: Report) -> None:
    found = []
    for kind, _name, channel, onset, length, orthography, subtype, label, confidence, slat in read_rttm(
        text_of("rttm", report)
    ):
        assert (kind, orthography, subtype, slat) == ("SPEAKER", "<NA>", "<NA>", "<NA>")
        found.append((int(channel) - 1, label, float(onset), round(float(onset) + float(length), 6), float(confidence)))
    want = [(channel, label, on, off, score) for channel, label, on, off, _, score in expected(report)]
    assert sorted(found) == sorted(want)


@given(reports())
def test_textgrid_covers_the_recording_without_gap_or_overlap(report: Report) -> None:
    end, tiers = read_textgrid(text_of("textgrid", report))
    assert float(end) == round(report.duration_s, 6)
    found = []
    for name, intervals in tiers.items():
        assert float(intervals[0][0]) == 0.0 and intervals[-1][1] == end
        for (_, stop, _), (start, _, _) in itertools.pairwise(intervals):
            assert stop == start
        assert all(float(start) < float(stop) for start, stop, _ in intervals)
        match = re.fullmatch(r"(?:ch(\d+): )?(.*)", name)
        assert match
        for start, stop, text in intervals:
            if text:
                severity, score = text.split()
                found.append((int(match[1] or 0), match[2], float(start), float(stop), severity, float(score)))
    cut = [
        (channel, label, onset, min(offset, float(end)), severity, score)
        for channel, label, onset, offset, severity, score in expected(report)
    ]
    assert sorted(found) == cut


@given(reports(label=st.text(st.characters(exclude_characters="()"), min_size=1, max_size=12)))
@example(Report(NASTY, 10.0, [ChannelReport(0, [event(NASTY, 5, 50)]), ChannelReport(1, [event('"', 5, 50)])]))
def test_no_name_can_break_a_format(report: Report) -> None:
    total = sum(len(channel.events) for channel in report.channels)
    for name in EXPORTS:
        text_of(name, report).encode("utf-8")
    assert len(read_csv(text_of("csv", report))) == total
    assert len(read_audacity(text_of("audacity", report))) == total
    assert len(read_webvtt(text_of("webvtt", report))) == total
    assert len(read_rttm(text_of("rttm", report))) == total
    _, tiers = read_textgrid(text_of("textgrid", report))
    assert sum(bool(text) for intervals in tiers.values() for *_, text in intervals) == total


def test_the_channel_is_named_only_where_there_are_several() -> None:
    one = Report("a", 1.0, [ChannelReport(0, [event("noise", 5, 10)])])
    two = Report("a", 1.0, [ChannelReport(0, []), ChannelReport(1, [event("noise", 5, 10)])])
    assert text_of("audacity", one) == "0.100000\t0.200000\tnoise (minor, 0.88)\n"
    assert text_of("audacity", two) == "0.100000\t0.200000\tch1: noise (minor, 0.88)\n"
    assert 'name = "noise"' in text_of("textgrid", one)
    assert 'name = "ch1: noise"' in text_of("textgrid", two)


def test_rttm_replaces_white_space_in_the_recordings_name_and_never_leaves_it_empty() -> None:
    channels = [ChannelReport(1, [event("noise", 5, 10)])]
    assert read_rttm(text_of("rttm", Report(" my\tcall 1.wav ", 1.0, channels))) == [
        ("SPEAKER", "my_call_1.wav", "2", "0.100000", "0.100000", "<NA>", "<NA>", "noise", "0.8750", "<NA>")
    ]
    assert read_rttm(text_of("rttm", Report(" ", 1.0, channels)))[0][1] == "<NA>"


def test_nothing_found_still_gives_a_readable_file() -> None:
    report = Report("a", 1.5, [ChannelReport(0, [])])
    assert text_of("audacity", report) == "" and text_of("rttm", report) == ""
    assert text_of("webvtt", report) == "WEBVTT\n"
    assert text_of("csv", report).count("\r\n") == 1
    assert read_textgrid(text_of("textgrid", report)) == ("1.500000", {"events": [("0.000000", "1.500000", "")]})


def test_an_open_event_lasts_to_the_end() -> None:
    report = Report("a", 1.5, [ChannelReport(0, [event("noise", 50, None)])])
    assert read_csv(text_of("csv", report))[0][2:4] == (1.0, 1.5)
    assert read_textgrid(text_of("textgrid", report))[1]["noise"][-1][:2] == ("1.000000", "1.500000")


def test_overlapping_events_of_one_label_are_cut_in_a_textgrid() -> None:
    events = [event("noise", 0, 20), event("noise", 10, 30), event("noise", 12, 14)]
    _, tiers = read_textgrid(text_of("textgrid", Report("a", 1.0, [ChannelReport(0, events)])))
    assert [interval[:2] for interval in tiers["noise"]] == [
        ("0.000000", "0.400000"),
        ("0.400000", "0.600000"),
        ("0.600000", "1.000000"),
    ]


def test_frames_csv_leaves_cells_without_a_value_empty() -> None:
    report = Report(
        "a",
        0.06,
        [
            ChannelReport(0, [], {"speech": [0.0, 0.25, 1.0], "snr_db": [None, -3.5, 20.0]}),
            ChannelReport(1, []),
            ChannelReport(2, [], {"speech": [0.5]}),
        ],
    )
    assert list(csv.reader(io.StringIO("".join(frames_csv(report)), newline=""))) == [
        ["channel", "start_s", "speech", "snr_db"],
        ["0", "0.000000", "0.0000", ""],
        ["0", "0.020000", "0.2500", "-3.5000"],
        ["0", "0.040000", "1.0000", "20.0000"],
        ["2", "0.000000", "0.5000", ""],
    ]


@pytest.mark.parametrize("render", [*(export.render for export in EXPORTS.values()), frames_csv])
def test_long_results_come_in_chunks_and_only_when_asked_for(render: Callable[[Report], Iterator[str]]) -> None:
    events = [event("noise", i * 2, i * 2 + 1) for i in range(5000)]
    report = Report("a", 200.0, [ChannelReport(0, events, {"noise": [0.5] * 10_000})])
    chunks = render(report)
    assert iter(chunks) is chunks
    sizes = [len(chunk) for chunk in chunks]
    assert len(sizes) > 10 and min(sizes) > 0
    assert max(sizes) < 100_000


def test_the_table_names_media_type_and_extension_of_each_format() -> None:
    assert {name: (e.media_type.split(";")[0], e.extension) for name, e in EXPORTS.items()} == {
        "csv": ("text/csv", "csv"),
        "audacity": ("text/plain", "txt"),
        "textgrid": ("text/plain", "TextGrid"),
        "rttm": ("text/plain", "rttm"),
        "webvtt": ("text/vtt", "vtt"),
    }
