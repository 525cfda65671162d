"""The report: its figures against rows that are known, and a page that is safe to open."""

from __future__ import annotations

import json
import re
import shutil
from datetime import UTC, date, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow.parquet as pq
import pytest
from archive_material import Listing, run_here, write_clips

from speech_qc.archive.dest import Destination
from speech_qc.archive.items import ArchiveError, Item
from speech_qc.archive.report.figures import compute
from speech_qc.archive.report.grouping import date_in, path_fields
from speech_qc.archive.report.measures import read_rows
from speech_qc.archive.report.write import write_report
from speech_qc.archive.rows import as_table
from speech_qc.cli.main import main

TIME = datetime(2026, 1, 1, tzinfo=UTC)


def row(uri: str, status: str | None = "pass", quality: float | None = 80.0, **fields: Any) -> dict[str, Any]:
    """A row of results; only what a report reads."""
    error = {"code": "invalid_audio", "message": "expected <b>sound</b>"} if status is None else None
    summary = {"quality": quality, "snr_db": None if quality is None else quality / 4, "speech_ratio": 0.5}
    return {
        "uri": uri,
        "channel": None if error else 0,
        "duration_s": None if error else 3600.0,
        "status": status,
        "error": error,
        "reasons": [{"code": "snr_db_below"}] if status in ("warn", "fail") else [],
        "summary": None if error else summary,
        "levels": {"bandwidth_hz": 3400.0},
        "inspected_at": TIME,
    } | fields


def results_of(folder: Path, rows: list[dict[str, Any]]) -> Destination:
    with Destination(str(folder)) as destination:
        destination.add(as_table(rows))
        destination.flush()
    return Destination(str(folder), writable=False)


def test_shares_limits_and_hours(tmp_path: Path) -> None:
    rows = [row(f"/{number}.wav", "pass", 75.0) for number in range(5)]
    rows += [row(f"/w{number}.wav", "warn", 45.0) for number in range(3)]
    rows += [row("/f.wav", "fail", 20.0), row("/u.wav", "unknown", None), row("/e.wav", None)]
    rows.append(row("/0.wav", "fail", 10.0, inspected_at=datetime(2025, 1, 1, tzinfo=UTC)))  # an old version

    figures = compute(read_rows(results_of(tmp_path, rows)))

    assert (figures.rows, figures.recordings, figures.hours) == (11, 11, 10.0)
    assert [(one.name, one.rows) for one in figures.statuses] == [
        ("pass", 5), ("warn", 3), ("fail", 1), ("unknown", 1), ("error", 1)
    ]  # fmt: skip
    assert [(one.name, one.rows, one.share) for one in figures.reasons] == [("snr_db_below", 4, 4 / 11)]
    kept = {(one.measure.name, one.limit): (one.rows, one.hours) for one in figures.kept}
    assert kept["quality", 70] == (5, 5.0)
    assert kept["quality", 40] == (8, 8.0)
    assert kept["bandwidth_hz", 3400] == (10, 10.0), "rows with an error are not kept"
    assert kept["noise_ratio", 0.5] == (0, 0.0), "nor are rows without a value"
    assert [found["uri"] for found in figures.worst] == ["/f.wav", "/w0.wav", "/w1.wav", "/w2.wav"]
    assert [found["uri"] for found in figures.failed] == ["/e.wav"]
    quality = next(one for one in figures.distributions if one.measure.name == "quality")
    assert (quality.known, quality.counts.sum()) == (9, 9)
    assert quality.quantiles is not None and quality.quantiles[2] == 75.0


def test_groups_by_manifest_and_by_path_and_drift(tmp_path: Path) -> None:
    rows = [
        row(f"/archive/{trunk}/{agent}-2026{month:02d}15.wav", status, quality, manifest=json.dumps({"device": device}))
        for trunk, agent, month, status, quality, device in [
            ("north", "ann", 1, "pass", 80.0, "x"),
            ("north", "bob", 1, "pass", 90.0, "x"),
            ("south", "ann", 5, "fail", 20.0, "y"),
            ("south", "bob", 5, "pass", 70.0, None),
        ]
    ]
    figures = compute(read_rows(results_of(tmp_path, rows)), ["device"], "{trunk}/{agent}-*.wav")

    assert list(figures.groups) == ["device", "trunk", "agent"]
    assert [(one.name, one.rows, one.share("fail")) for one in figures.groups["trunk"]] == [
        ("south", 2, 0.5),
        ("north", 2, 0.0),
    ]
    assert [(one.name, one.quality) for one in figures.groups["agent"]] == [("ann", 50.0), ("bob", 80.0)]
    assert {one.name: one.rows for one in figures.groups["device"]} == {"x": 2, "y": 1, "(none)": 1}
    assert [(one.by, one.name, one.rows, one.quality) for one in figures.periods] == [
        ("week", "2026-01-12", 2, 85.0),
        ("week", "2026-05-11", 2, 45.0),
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("/calls/2026-03-01/a.wav", date(2026, 3, 1)),
        ("call_20260301T101500.wav", date(2026, 3, 1)),
        ("call-20260301101500-7.wav", date(2026, 3, 1)),
        ("2026/03_01.wav", None),
        ("2025-01-01 of 2026.03.01.wav", date(2026, 3, 1)),
        ("2026-02-31.wav", None),
        ("120260301.wav", None),
        ("id-202603011.wav", None),
        (None, None),
        (7, None),
    ],
)
def test_dates_are_found_in_names(text: Any, found: date | None) -> None:
    assert date_in(text) == found


def test_a_pattern_matches_the_end_of_a_path() -> None:
    pattern = path_fields("{trunk}/**/{agent}_*.wav")
    match = pattern.fullmatch("/a/b/t1/2026/03/ann_77.wav")
    assert match is not None and match["agent"] == "ann"
    assert path_fields("{trunk}/{agent}.wav").fullmatch("/x.y/t+1/a.wav")["trunk"] == "t+1"  # type: ignore[index]
    for wrong in ("*.wav", "{a}/{a}.wav"):
        with pytest.raises(ArchiveError, match="expected fields in braces"):
            path_fields(wrong)


def test_what_cannot_be_grouped_is_said(tmp_path: Path) -> None:
    rows = read_rows(results_of(tmp_path, [row("/a/b.wav", manifest='{"speaker": "s"}')]))
    with pytest.raises(ArchiveError, match=r"no manifest has this column.*speaker"):
        compute(rows, ["talker"])
    with pytest.raises(ArchiveError, match="no path ends like this"):
        compute(rows, (), "{trunk}.flac")


class Tags(HTMLParser):
    """Collects the tags of a page, and checks that what is opened is closed."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_escapes_what_comes_from_recordings(tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    named = [row(f"/{evil}/20260101.wav", "fail", 5.0, content_sha256="a", manifest=json.dumps({"by": evil}))]
    named += [row(f"/{evil}/2.wav", None, content_sha256="a"), row("https://example.com/a'\".wav", "warn", 50.0)]
    figures = compute(read_rows(results_of(tmp_path / "in", named)), ["by"], "{" + "folder}/*.wav")
    written = write_report(figures, read_rows(results_of(tmp_path / "in2", named)), evil, tmp_path / "out")

    text = written.read_text(encoding="utf-8")
    page = Tags(text)
    assert {tag for tag, _ in page.tags} <= {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "table", "thead", "tbody", "tr", "th", "td",
        "span", "div", "figure", "b", "svg", "rect", "line", "circle", "path", "text", "details", "summary", "audio",
        "br",
    }  # fmt: skip
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert not re.search(r"(src|href)=[\"'](?!https://example)", text), "only the one recording that can be reached"
    assert "default-src 'none'" in text


def test_a_real_archive_from_folder_to_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_clips(tmp_path / "in" / "trunk-1", 4, 1.5)
    shutil.copy(paths[0], tmp_path / "in" / "copy & more.wav")
    out = tmp_path / "out"
    assert main(["archive", str(tmp_path / "in"), "--out", str(out), "--workers", "1"]) == 0
    assert main(["archive", "report", str(out), "--by", "encoding"]) == 0
    printed = capsys.readouterr()
    assert "5 inspected, 0 done before, 0 with an error" in printed.err
    assert "5 recordings, 5 channels" in printed.out and "1 recordings have the bytes of another one" in printed.out

    page = Tags((out / "_report" / "report.html").read_text(encoding="utf-8"))
    linked = [unquote(attributes["src"] or "") for tag, attributes in page.tags if tag == "audio"]
    assert linked and all((out / "_report" / name).resolve().is_file() for name in linked)
    assert sum(tag == "svg" for tag, _ in page.tags) == 10
    rows = pq.read_table(out / "_report" / "rows.parquet")
    assert len(rows) == 5 and "snr_db" in rows.column_names
    assert pq.read_table(out / "_report" / "groups.parquet").to_pylist()[0]["name"] == "wav/PCM_16"
    limits = pq.read_table(out / "_report" / "limits.parquet").to_pylist()
    quality = np.asarray(rows["quality"].to_pylist(), float)
    assert next(one["rows"] for one in limits if one["measure"] == "quality") == (quality >= 40).sum()
    assert len(pq.read_table(out)) == 5, "the report is no part of the data set"

    assert main(["archive", "report", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["redundant"] == 1


def test_a_part_is_linked_by_its_time(tmp_path: Path) -> None:
    (path,) = write_clips(tmp_path / "in", 1, 3.0)
    run_here(Listing([Item(path, 0.5, 1.0)]), tmp_path / "out")
    rows = read_rows(Destination(str(tmp_path / "out"), writable=False))
    figures = compute(rows)
    figures.worst[:] = rows.to_pylist()
    page = write_report(figures, rows, "parts", tmp_path / "page").read_text()
    assert "clip-0000.wav#t=0.5,1.5" in page and "from 0.5 s, 1 s long" in page


def test_a_folder_without_results_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["archive", "report", str(tmp_path)]) == 2
    assert "there are none" in capsys.readouterr().err
    assert main(["archive", "report", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err
