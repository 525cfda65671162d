"""What commands can be asked, and how they answer the shell, in types that cost nothing to import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from speech_qc.wire.vocabulary import ChannelMode


class Format(StrEnum):
    """Formats of a result."""

    table = "table"
    json = "json"
    jsonl = "jsonl"
    csv = "csv"
    audacity = "audacity"
    textgrid = "textgrid"
    rttm = "rttm"
    webvtt = "webvtt"


class FailOn(StrEnum):
    """Least verdict that makes the exit code 1."""

    fail = "fail"
    warn = "warn"
    never = "never"


COUNTED = {FailOn.fail: {"fail"}, FailOn.warn: {"fail", "warn", "unknown"}, FailOn.never: set[str]()}
"""Verdicts that count. `unknown` is no fault of a recording, but who asks for no warnings wants nothing unjudged."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of every recording.

    Args:
        profile: Name of a verdict profile; None for the default one.
        labels: Comma-separated labels; None for all.
        channels: Each channel by itself, or their mean.
        frames: Whether the answer should hold the score of every frame.
        explain: Whether it should say what speaks for each event.
    """

    profile: str | None = None
    labels: str | None = None
    channels: ChannelMode = "split"
    frames: bool = True
    explain: bool = False


@dataclass(frozen=True, slots=True)
class InspectCommand:
    """Everything that the command line says.

    Args:
        files: Files, folders and glob patterns.
        form: Format of the result.
        out: Folder for one result file per recording; None for standard output.
        question: What to ask of each.
        scores: Print a line per frame.
        fail_on: Which verdicts make the exit code 1.
        url: Server to ask; None to run the model here.
        plot: Picture to draw; None for none.
        model: Model file; None for the one of the settings.
        device: Where to run it; None for the one of the settings.
        api_key_file: Holds the key for the server at `url`; None for the environment's.
    """

    files: Sequence[str]
    form: Format = Format.table
    out: Path | None = None
    question: Question = field(default_factory=Question)
    scores: bool = False
    fail_on: FailOn = FailOn.fail
    url: str | None = None
    plot: Path | None = None
    model: Path | None = None
    device: str | None = None
    api_key_file: Path | None = None
