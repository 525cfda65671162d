"""The `stream` command: stream a recording or standard input to a server, and show its scores and verdict."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from speech_qc.cli.api_key_option import api_key_for, with_hint
from speech_qc.cli.files import InputFile
from speech_qc.cli.live_view import JsonView, TerminalView, View
from speech_qc.cli.options import COUNTED, FailOn
from speech_qc.cli.playback import MAX_RATE_HZ, MIN_RATE_HZ, PlayedRecording, StandardInput, in_real_time
from speech_qc.cli.seams import CommandError
from speech_qc.client.stream import Encoding, NoStream, StreamClient, StreamClosed
from speech_qc.exit_codes import FOUND, OK
from speech_qc.wire.server_messages import StreamWarning, Summary

STDIN = "-"


@dataclass(frozen=True, slots=True)
class StreamCommand:
    """All options of the command.

    Args:
        source: A recording, or `-`.
        url: Address of the server.
        realtime: Send in real time; None for the default of the source.
        encoding: Encoding of the samples that are sent.
        rate_hz: Samples per second; None for the default of the source.
        channels: Number of channels; None for the default of the source.
        emit_ms: Audio between two score messages.
        labels: Comma-separated labels; None for all.
        profile: Verdict profile; None for the default one.
        fail_on: Which verdicts cause exit code 1.
        as_json: Print the messages as JSON.
        api_key_file: File with the key for the server; None for the environment variable.
    """

    source: str
    url: str
    realtime: bool | None = None
    encoding: Encoding = "linear16"
    rate_hz: int | None = None
    channels: int | None = None
    emit_ms: int = 100
    labels: str | None = None
    profile: str | None = None
    fail_on: FailOn = FailOn.fail
    as_json: bool = False
    api_key_file: Path | None = None


def stream(command: StreamCommand) -> int:
    """Run the command.

    Returns:
        The exit code.

    Raises:
        CommandError: The server cannot be reached, refused or ended the stream; the recording cannot be streamed.
        SpeechQCError: The recording cannot be read.
    """
    if command.rate_hz is not None and not MIN_RATE_HZ <= command.rate_hz <= MAX_RATE_HZ:
        raise CommandError(f"--rate: expected {MIN_RATE_HZ} to {MAX_RATE_HZ}, got {command.rate_hz}")
    api_key = api_key_for(command.api_key_file, url=command.url)
    audio = _source(command)
    try:
        summary = asyncio.run(_play(command, audio, api_key))
    finally:
        audio.close()
    statuses = [channel.verdict.status for channel in summary.channels]
    return FOUND if COUNTED[command.fail_on].intersection(statuses) else OK


def _source(command: StreamCommand) -> PlayedRecording | StandardInput:
    if command.source == STDIN:
        return StandardInput(command.encoding, command.rate_hz, command.channels)
    return PlayedRecording(Path(command.source), command.encoding, command.rate_hz, command.channels)


async def _play(command: StreamCommand, audio: PlayedRecording | StandardInput, api_key: str | None) -> Summary:
    """Open the stream, send the audio, and return the summary."""
    wire = audio.wire
    labels = None if command.labels is None else [label.strip() for label in command.labels.split(",")]
    try:
        connecting = StreamClient.connect(
            command.url, encoding=wire.encoding, sample_rate=wire.rate_hz, channels=wire.channels,
            emit_ms=command.emit_ms, labels=labels, profile=command.profile, api_key=api_key,
        )  # fmt: skip
        client = await connecting
    except ValueError as error:
        raise CommandError(f"--url: {error}") from error
    except StreamClosed as error:
        raise CommandError(with_hint(str(error), error.error.error.code if error.error else "")) from error
    except NoStream as error:
        raise CommandError(str(error)) from error
    notes = Console(stderr=True, highlight=False, soft_wrap=True)
    async with client:
        view: View = JsonView()
        if command.as_json:
            view.take(client.ready)
        else:
            name = "standard input" if command.source == STDIN else command.source
            view = TerminalView(InputFile(Path(name)), client.ready, notes)
        try:
            return await _converse(command, audio, client, view)
        finally:
            view.close()
            if isinstance(audio, PlayedRecording):
                for warning in audio.warnings:
                    notes.print(Text(f"warning: {warning.message}"))


async def _converse(
    command: StreamCommand, audio: PlayedRecording | StandardInput, client: StreamClient, view: View
) -> Summary:
    """Send audio and receive messages concurrently; return the summary when the stream has ended gracefully."""
    stop = asyncio.Event()
    paced = command.realtime if command.realtime is not None else command.source != STDIN
    fast = command.realtime is False
    speaker = asyncio.create_task(_speak(audio, client, stop, paced=paced))
    try:
        with _interruptible(stop):
            async for message in client:
                if isinstance(message, StreamWarning) and message.code == "too_fast" and not command.as_json and fast:
                    continue  # the user asked for it
                view.take(message)
        await speaker  # raises the error of the audio source, if there was one
    except StreamClosed as error:
        partial = "" if error.summary is None else "the summary is partial: "
        raise CommandError(f"{partial}{error}") from error
    finally:
        speaker.cancel()
        await asyncio.wait({speaker})
        if not speaker.cancelled():
            speaker.exception()  # mark as retrieved: it was raised above, or the stream's error has more information
    if client.summary is None:
        raise CommandError("the stream ended without a summary")
    return client.summary


async def _speak(
    audio: PlayedRecording | StandardInput, client: StreamClient, stop: asyncio.Event, *, paced: bool
) -> None:
    """Send audio until its end or until `stop` is set, then end the stream gracefully."""
    sending = asyncio.create_task(_send(audio, client, paced=paced))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({sending, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (sending, stopping):
            task.cancel()
        await asyncio.wait({sending, stopping})
    await client.close()
    if not sending.cancelled():
        sending.result()


async def _send(audio: PlayedRecording | StandardInput, client: StreamClient, *, paced: bool) -> None:
    portions = audio.portions()
    async for portion in in_real_time(portions, audio.wire) if paced else portions:
        await client.send(portion)


@contextmanager
def _interruptible(stop: asyncio.Event) -> Iterator[None]:
    """Let the first Ctrl-C end the stream gracefully; the second one interrupts as usual."""
    loop = asyncio.get_running_loop()

    def first() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)

    try:
        loop.add_signal_handler(signal.SIGINT, first)
    except (NotImplementedError, RuntimeError, ValueError):  # Windows; or not the main thread
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
