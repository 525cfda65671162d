"""Option types of the commands; cheap to import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from speech_qc.wire.vocabulary import RawEncoding


class Format(StrEnum):
    """Output formats."""

    table = "table"
    json = "json"
    jsonl = "jsonl"
    csv = "csv"
    audacity = "audacity"
    textgrid = "textgrid"
    rttm = "rttm"
    webvtt = "webvtt"


class ArchiveEngine(StrEnum):
    """What inspects an archive."""

    local = "local"
    ray = "ray"


class ExportFormat(StrEnum):
    """Formats of `archive export`."""

    nemo = "nemo"
    label_studio = "label-studio"
    audacity = "audacity"
    textgrid = "textgrid"
    rttm = "rttm"
    webvtt = "webvtt"
    csv = "csv"


class ExportStatus(StrEnum):
    """Recordings that `archive export` chooses; `error`: those that could not be inspected."""

    passed = "pass"
    warn = "warn"
    fail = "fail"
    unknown = "unknown"
    error = "error"


class PeriodChoice(StrEnum):
    """Periods of `baseline`."""

    hour = "hour"
    day = "day"
    week = "week"


class FailOn(StrEnum):
    """Minimum severity of a verdict for exit code 1."""

    fail = "fail"
    warn = "warn"
    never = "never"


class KeyRight(StrEnum):
    """A right of an API key: those of `speech_qc.wire.vocabulary.Right`, for a repeatable option."""

    send = "send"
    watch = "watch"
    admin = "admin"


class InspectFailOn(StrEnum):
    """What causes exit code 1 of `inspect`; `skipped` is a file in a folder that does not look like audio."""

    fail = "fail"
    warn = "warn"
    skipped = "skipped"
    never = "never"


COUNTED: Mapping[str, frozenset[str]] = {
    "fail": frozenset({"fail"}),
    "warn": frozenset({"fail", "warn", "unknown"}),
    "skipped": frozenset(),
    "never": frozenset(),
}
"""Verdicts that count. `unknown` is not a defect, but `--fail-on warn` also rejects recordings without a verdict."""


@dataclass(frozen=True, slots=True)
class Question:
    """Options for the inspection of each recording.

    Args:
        profile: Name of a verdict profile; None for the default one.
        labels: Comma-separated labels; None for all.
        channels: Inspect each channel separately, or their mean; or the channels of audio without a header.
        frames: Whether to include the scores of every frame.
        explain: Whether to include the evidence for each event.
        encoding: Encoding of audio without a header; None for recordings.
        sample_rate: Its sample rate, Hz; None for the usual one.
        show_digits: Whether to name the telephone keys in tones.
        legs: Names of the two channels as the legs of a call; None if they are not.
    """

    profile: str | None = None
    labels: str | None = None
    channels: str = "split"
    frames: bool = True
    explain: bool = False
    encoding: RawEncoding | None = None
    sample_rate: int | None = None
    show_digits: bool = False
    legs: str | None = None


@dataclass(frozen=True, slots=True)
class InspectCommand:
    """All options of the `inspect` command.

    Args:
        files: Files, folders and glob patterns.
        form: Format of the result.
        out: Folder for one result file per recording; None for standard output.
        question: Options for the inspection of each recording.
        scores: Print a line per frame.
        fail_on: What causes exit code 1.
        url: Server to use; None to run the model here.
        plot: Picture to draw; None for none.
        model: Model file; None for the one in the settings.
        device: Device to run it on; None for the one in the settings.
        api_key_file: File with the key for the server at `url`; None for the environment variable.
    """

    files: Sequence[str]
    form: Format = Format.table
    out: Path | None = None
    question: Question = field(default_factory=Question)
    scores: bool = False
    fail_on: Sequence[InspectFailOn] = (InspectFailOn.fail,)
    url: str | None = None
    plot: Path | None = None
    model: Path | None = None
    device: str | None = None
    api_key_file: Path | None = None
