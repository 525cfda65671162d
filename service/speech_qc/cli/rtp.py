"""The `rtp` command: the RTP streams of a packet capture, with their transport and the quality of what they carry."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from rich.console import Console
from rich.table import Table
from rich.text import Text

from speech_qc.audio import AudioWarning
from speech_qc.audio.packet_decoders import PacketDecoders
from speech_qc.cli.files import find_sources, pipes_copied, printable, replaced_when_complete
from speech_qc.cli.formats import json_bytes
from speech_qc.cli.options import COUNTED, FailOn
from speech_qc.cli.seams import CommandError, Seams
from speech_qc.cli.tables import STATUS_STYLES, clock, judge, open_table, output_console, without_padding
from speech_qc.embedded.detector import MAX_STREAMS, Detector
from speech_qc.errors import InvalidAudio
from speech_qc.exit_codes import FOUND, OK
from speech_qc.pipeline.capture_documents import capture_answer
from speech_qc.pipeline.factory import decode_limits
from speech_qc.rtp.codecs import parse_payload_types
from speech_qc.rtp.reader import CaptureReader, RtpOptions
from speech_qc.rtp.reports import capture_report
from speech_qc.rtp.stream import LegAudio, LegItem
from speech_qc.settings import load_settings

_SILENCE_BLOCK = 1 << 16


@dataclass(frozen=True, slots=True)
class RtpCommand:
    """All options of the command.

    Args:
        file: The capture, or `-`.
        as_json: Print the JSON document.
        frames: Include the scores of every frame in it.
        out: Folder for one WAV file per stream; None for none.
        payload_types: What dynamic payload types mean.
        scores: Whether to score; otherwise only the transport is measured, and no model is needed.
        profile: Name of a verdict profile; None for the default one.
        show_digits: Whether to name telephone keys.
        fail_on: Mildest verdict that makes the exit code 1.
        model: Model file; None for the one in the settings.
        device: Device to run it on; None for the one in the settings.
    """

    file: str
    as_json: bool = False
    frames: bool = False
    out: Path | None = None
    payload_types: str | None = None
    scores: bool = True
    profile: str | None = None
    show_digits: bool = False
    fail_on: FailOn = FailOn.fail
    model: Path | None = None
    device: str | None = None


def rtp(command: RtpCommand, seams: Seams) -> int:
    """Run the command.

    Returns:
        The exit code.

    Raises:
        CommandError: There is no such file, or a WAV file cannot be written.
        SpeechQCError: The capture cannot be inspected.
    """
    if command.frames and not (command.as_json and command.scores):
        raise CommandError("--frames adds the scores to JSON: give --json, and leave out --no-scores")
    with pipes_copied([command.file]) as copies:
        found = find_sources([command.file], copies)
        if len(found.sources) != 1:
            raise CommandError(
                found.missing[0] if found.missing else f"expected one capture, got {len(found.sources)} files"
            )
        source = found.sources[0]
        try:
            with wav_files(command.out) as on_item:
                document = (_scored if command.scores else _measured)(command, source.path, on_item, seams)
        except OSError as error:
            raise CommandError(f"{source.name}: {error}") from error
    notes = Console(stderr=True, highlight=False, soft_wrap=True)
    if command.as_json:
        sys.stdout.buffer.write(json_bytes(source, document) + b"\n")
        sys.stdout.flush()
    else:
        for warning in document["warnings"]:
            notes.print(Text(f"warning: {printable(warning['message'])}"))
        console = output_console(sys.stdout)
        with console.capture() as capture:
            console.print(stream_table(document))
            console.print(Text(_footer(document), style="dim"))
        sys.stdout.buffer.write(without_padding(capture.get()).encode(console.encoding, "replace"))
        sys.stdout.flush()
    statuses = [channel["verdict"]["status"] for channel in document.get("channels", ())]
    return FOUND if COUNTED[command.fail_on].intersection(statuses) else OK


def _scored(command: RtpCommand, path: Path, on_item: OnItem, seams: Seams) -> dict[str, Any]:
    settings = load_settings(model_path=command.model, device=command.device)
    with path.open("rb") as file:
        found = Detector(settings, seams.make_runner(settings)).inspect(
            file,
            profile=command.profile,
            frames=command.frames,
            payload_types=command.payload_types,
            show_digits=command.show_digits,
            on_item=on_item,
        )
    if found.capture is None:
        raise InvalidAudio("expected a packet capture, got a recording: use speech-qc inspect")
    return found.document


def _measured(command: RtpCommand, path: Path, on_item: OnItem, seams: Seams) -> dict[str, Any]:
    """Measure the transport without a model; the document has no channels."""
    del seams
    settings = load_settings()
    options = RtpOptions(
        parse_payload_types(command.payload_types),
        max_streams=MAX_STREAMS,
        max_duration_s=decode_limits(settings).max_duration_s,
    )
    with path.open("rb") as file, PacketDecoders() as decoders:
        reader = CaptureReader(file, options, decoders)
        for item in reader:
            on_item(item)
    report = capture_report(reader, show_digits=command.show_digits or settings.show_digits)
    warnings: Sequence[AudioWarning] = reader.warnings()
    return {
        "warnings": [{"code": warning.code, "message": warning.message} for warning in warnings],
        "capture": capture_answer(report).model_dump(),
    }


def stream_table(document: Mapping[str, Any]) -> Table:
    """Return a row for each stream."""
    channels = {channel["channel"]: channel for channel in document.get("channels", ())}
    table = open_table()
    table.add_column("ch", justify="right")
    for heading in ("from → to", "SSRC", "codec"):
        table.add_column(heading, overflow="fold")
    for heading in ("start s", "length", "packets", "lost %", "late", "dup.", "jitter ms", "max", "pauses"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("quality", justify="right", no_wrap=True)
    for stream in document["capture"]["streams"]:
        channel = channels.get(stream["channel"])
        quality = None if channel is None else channel["summary"]["quality"]
        status = "–" if channel is None else channel["verdict"]["status"]
        table.add_row(
            _optional(stream["channel"], "d"),
            f"{stream['source']}\n→ {stream['target']}",
            stream["ssrc"].removeprefix("0x"),
            printable("+".join(stream["codecs"])),
            f"{stream['start_s']:.2f}",
            clock(stream["duration_s"]),
            str(stream["packets"]),
            f"{100 * stream['lost_ratio']:.1f}",
            str(stream["late"]),
            str(stream["duplicates"]),
            _optional(stream["jitter_ms"], ".1f"),
            _optional(stream["jitter_max_ms"], ".1f"),
            clock(stream["dtx"]["total_ms"] / 1000),
            Text(status, style=STATUS_STYLES.get(status, "")),
            _optional(quality, ".0f"),
        )
    return table


def _footer(document: Mapping[str, Any]) -> str:
    capture = document["capture"]
    counted = f"{capture['packets']} packets, {capture['other_packets']} of them in no RTP stream"
    return printable(f"{counted}; {judge(dict(document))}" if "model" in document else counted)


def _optional(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"


class OnItem:
    """Takes the sound and the gaps of all legs; this one does nothing with them."""

    def __call__(self, item: LegItem) -> None:
        """Take one."""


class _WavFiles(OnItem):
    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._files: dict[int, soundfile.SoundFile] = {}

    def __call__(self, item: LegItem) -> None:
        if isinstance(item, LegAudio):
            if item.leg not in self._files:
                draft = self._stack.enter_context(replaced_when_complete(self._folder / f"leg-{item.leg}.wav"))
                wav = soundfile.SoundFile(draft, "x", item.rate_hz, 1, "PCM_16", format="WAV")
                self._files[item.leg] = self._stack.enter_context(wav)
            self._files[item.leg].write(item.samples)
            return
        missing = item.samples
        while missing:
            count = min(missing, _SILENCE_BLOCK)
            self._files[item.leg].write(np.zeros(count, np.float32))
            missing -= count


@contextmanager
def wav_files(folder: Path | None) -> Iterator[OnItem]:
    """Provide a writer of `leg-N.wav`, with zeros for what was not received; files appear when all are complete."""
    if folder is None:
        yield OnItem()
        return
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        yield _WavFiles(folder, stack)
