"""The command line `speech-qc`: declares the options and turns every outcome into an exit code.

What the commands do stands in `speech_qc.cli`; it is imported when a command runs, so that `--help` is quick.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from speech_qc.cli.options import FailOn, Format, InspectCommand, Question
from speech_qc.cli.seams import CommandError, Seams
from speech_qc.errors import SpeechQCError
from speech_qc.exit_codes import CLOSED_PIPE, ERROR, INTERRUPTED, OK
from speech_qc.version import __version__
from speech_qc.wire.vocabulary import ChannelMode, Device, Encoding, LogLevel

Model = Annotated[Path | None, typer.Option(help="Model file, instead of SPEECHQC_MODEL_PATH.", show_default=False)]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--api-key-file",
        help="File with the API key for the server, instead of SPEECHQC_API_KEY.",
        show_default=False,
    ),
]
On = Annotated[Device | None, typer.Option("--device", help="Where inference runs.", show_default=False)]

app = typer.Typer(
    name="speech-qc",
    help="Hears noise and interference in speech: scores for every 20 ms, events, levels, verdicts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"speech-qc {__version__}")
        raise typer.Exit


@app.callback()
def _all_commands(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Options that stand before any command."""


@app.command(
    "inspect",
    epilog="Exit codes: 0 all passed (or nothing reached --fail-on), 1 a verdict reached it, 2 an error: a recording "
    "that cannot be read, a wrong option, no model. An error outweighs a verdict; it does not stop the other files.",
)
def _inspect(
    context: typer.Context,
    files: Annotated[
        list[str],
        typer.Argument(help="Recordings, folders (searched to the bottom), or quoted glob patterns.", metavar="FILES"),
    ],
    form: Annotated[
        Format,
        typer.Option(
            "--format",
            "-f",
            help="How to write the results. json: one document, an array for several files; jsonl: a line per file.",
        ),
    ] = Format.table,
    out: Annotated[
        Path | None, typer.Option(help="Folder for one result file per recording.", show_default=False)
    ] = None,
    profile: Annotated[str | None, typer.Option(help="Limits of the verdict.", show_default=False)] = None,
    labels: Annotated[str | None, typer.Option(help="Comma-separated labels; all by default.")] = None,
    channels: Annotated[ChannelMode, typer.Option(help="Each channel by itself, or their mean.")] = "split",
    frames: Annotated[bool, typer.Option("--frames/--no-frames", help="Scores of every 20 ms in JSON.")] = True,
    scores: Annotated[
        bool, typer.Option("--scores", help="Print a line per 20 ms (table: up to 30 s; csv: instead of events).")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say what speaks for each event: band, level over the floor, SNR, kind.")
    ] = False,
    fail_on: Annotated[
        FailOn,
        typer.Option(
            help="Least verdict that makes the exit code 1. 'unknown' (no speech, too short) passes with 'fail' and "
            "counts with 'warn'."
        ),
    ] = FailOn.fail,
    url: Annotated[
        str | None, typer.Option(help="Ask this server instead of running the model here.", show_default=False)
    ] = None,
    api_key_file: KeyFile = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Draw the recording, its scores and events (.png, .svg or .pdf). Several recordings: -1, -2 … before "
            "the extension; several channels: -ch0, -ch1 …",
            show_default=False,
        ),
    ] = None,
    model: Model = None,
    device: On = None,
) -> None:
    """Inspect recordings: what disturbs the speech, where, and whether it is good enough."""
    from speech_qc.cli.inspect import inspect

    question = Question(profile, labels, channels, frames, explain)
    command = InspectCommand(files, form, out, question, scores, fail_on, url, plot, model, device, api_key_file)
    with _quiet_log():
        _run(lambda: inspect(command, context.obj))


@app.command("serve")
def _serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on, instead of SPEECHQC_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on, instead of SPEECHQC_PORT.")] = None,
    model: Model = None,
    device: On = None,
    log_level: Annotated[LogLevel | None, typer.Option(help="Least severe level that is logged.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that serve the port together, instead of SPEECHQC_WORKERS.")
    ] = None,
) -> None:
    """Serve HTTP and WebSocket; all other settings come from SPEECHQC_* variables."""
    from speech_qc.cli.serve import serve

    _run(
        lambda: serve(
            host=host,
            port=port,
            model=model,
            device=device,
            log_level=log_level,
            workers=workers,
            seams=context.obj,
        )
    )


@app.command(
    "stream",
    epilog="Exit codes: 0 passed (or nothing reached --fail-on), 1 a verdict reached it, 2 an error. Ctrl-C ends the "
    "stream in order, so that the summary still comes; a second one breaks it off.",
)
def _stream(
    source: Annotated[str, typer.Argument(help="A recording, or - for raw samples on standard input.", metavar="FILE")],
    url: Annotated[str, typer.Option(help="Server to play into.")] = "ws://127.0.0.1:8000",
    api_key_file: KeyFile = None,
    realtime: Annotated[
        bool | None,
        typer.Option(
            "--realtime/--fast",
            help="At the pace of the recording (default), or as fast as the server takes it (default of -).",
            show_default=False,
        ),
    ] = None,
    encoding: Annotated[Encoding, typer.Option(help="How the samples are sent; with -, what they are.")] = "linear16",
    rate: Annotated[
        int | None,
        typer.Option(help="Samples per second; the recording's own, or 16000 of -.", show_default=False),
    ] = None,
    channels: Annotated[
        int | None, typer.Option(min=1, max=2, help="Channels; the recording's own, or 1 of -.", show_default=False)
    ] = None,
    emit_ms: Annotated[int, typer.Option(help="Audio between two score messages, ms.")] = 100,
    labels: Annotated[str | None, typer.Option(help="Comma-separated labels; all by default.")] = None,
    profile: Annotated[str | None, typer.Option(help="Limits of the verdict.", show_default=False)] = None,
    fail_on: Annotated[FailOn, typer.Option(help="Least verdict that makes the exit code 1.")] = FailOn.fail,
    as_json: Annotated[bool, typer.Option("--json", help="Print every message of the server, one per line.")] = False,
) -> None:
    """Play a recording or standard input into a server and watch its scores live."""
    from speech_qc.cli.stream import StreamCommand, stream

    command = StreamCommand(
        source,
        url,
        realtime,
        encoding,
        rate,
        channels,
        emit_ms,
        labels,
        profile,
        fail_on,
        as_json,
        api_key_file,
    )
    with _quiet_log():
        _run(lambda: stream(command))


@app.command(
    "capacity",
    epilog="Exit codes: 0 a number was found, 1 not even the smallest number holds, 2 an error.",
)
def _capacity(
    p99_ms: Annotated[float, typer.Option(min=1, help="Limit of the lag's 99th percentile, ms.")] = 150.0,
    message_ms: Annotated[int, typer.Option(min=10, max=1000, help="Audio in one message, ms.")] = 100,
    emit_ms: Annotated[int, typer.Option(min=20, max=1000, help="Audio between two score messages, ms.")] = 100,
    most: Annotated[int, typer.Option("--max", min=1, max=20_000, help="Most streams to try.")] = 2000,
    seconds: Annotated[float, typer.Option(min=1, help="Timed in each trial, s.")] = 10.0,
    minutes_limit: Annotated[float, typer.Option(min=0.1, help="No trial begins that would end later.")] = 6.0,
    url: Annotated[
        str | None, typer.Option(help="Measure this server instead of starting one here.", show_default=False)
    ] = None,
    api_key_file: KeyFile = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=64, help="Processes of the server to start.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Find out how many live streams this machine carries, and what limit to set."""
    from speech_qc.capacity.trial import Conditions
    from speech_qc.cli.capacity import CapacityOptions, capacity

    conditions = Conditions(message_ms, emit_ms, seconds)
    options = CapacityOptions(p99_ms, conditions, most, 60 * minutes_limit, url, workers, api_key_file)
    with _quiet_log():
        _run(lambda: capacity(options, as_json=as_json))


@app.command("model")
def _model(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print what GET /v1/model answers.")] = False,
    model: Model = None,
    device: On = None,
) -> None:
    """Print what the model declares: name, labels with thresholds, latency."""
    from speech_qc.cli.model import model as show_model

    with _quiet_log():
        _run(lambda: show_model(model, device, as_json=as_json, seams=context.obj))


@app.command("settings", epilog="Exit codes: 0 all values are right, 2 one is wrong.")
def _settings(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the page docs/settings.md, whatever is set here.")
    ] = False,
) -> None:
    """Print every setting, its value and where that comes from; secrets are hidden."""
    from speech_qc.cli.settings import settings

    _run(lambda: settings(as_json=as_json, as_markdown=as_markdown))


@app.command("doctor", epilog="Exit codes: 0 all well, 1 it will serve, but not well, 2 it will not serve.")
def _doctor(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Look whether this machine can serve with these settings, and say what to do where not."""
    from speech_qc.cli.doctor import doctor

    with _quiet_log():
        _run(lambda: doctor(as_json=as_json))


keys_app = typer.Typer(help="Make, list and remove API keys.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")

KeysFile = Annotated[
    Path | None, typer.Option("--file", help="Keys file, instead of SPEECHQC_API_KEYS_FILE.", show_default=False)
]


@keys_app.command("add")
def _keys_add(
    name: Annotated[str, typer.Argument(help="Whose key it is; for logs and lists.", metavar="NAME")],
    file: KeysFile = None,
    admin: Annotated[bool, typer.Option("--admin", help="May also reload the model.")] = False,
    max_streams: Annotated[
        int | None, typer.Option(min=1, help="Live channels at the same time.", show_default=False)
    ] = None,
    uploads_per_minute: Annotated[int | None, typer.Option(min=1, help="Uploads.", show_default=False)] = None,
) -> None:
    """Make a key and print it, once: the file keeps only its hash."""
    from speech_qc.cli.keys import add

    _run(lambda: add(name, file, admin=admin, max_streams=max_streams, uploads_per_minute=uploads_per_minute))


@keys_app.command("list")
def _keys_list(file: KeysFile = None) -> None:
    """Print the keys' ids, names and bounds."""
    from speech_qc.cli.keys import show

    _run(lambda: show(file))


@keys_app.command("remove")
def _keys_remove(
    key: Annotated[str, typer.Argument(help="Id of a key, or the name where only one has it.", metavar="KEY")],
    file: KeysFile = None,
) -> None:
    """Remove a key; a running server refuses it within seconds."""
    from speech_qc.cli.keys import remove

    _run(lambda: remove(key, file))


def main(argv: Sequence[str] | None = None, *, seams: Seams | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; None for those of the process.
        seams: What to put in place of the model's loader, the network or the server.

    Returns:
        The exit code: 0 all well, 1 a verdict at or above `--fail-on`, 2 an error.
    """
    try:
        app(None if argv is None else list(argv), prog_name="speech-qc", obj=seams or Seams())
    except SystemExit as end:
        if end.code is None:
            return OK
        return end.code if isinstance(end.code, int) else ERROR
    return OK


def _run(command: Callable[[], int]) -> NoReturn:
    """Run a command and end with its exit code; here, since the option parser has its own idea of interruptions."""
    try:
        code = command()
    except BrokenPipeError:
        _drop_stdout()
        code = CLOSED_PIPE
    except KeyboardInterrupt:
        code = INTERRUPTED
    except (CommandError, SpeechQCError) as error:
        sys.stderr.write(f"error: {error}\n")
        code = ERROR
    raise typer.Exit(code)


@contextmanager
def _quiet_log() -> Iterator[None]:
    """Keep the service's log off the terminal: whatever goes wrong comes as an error, in one sentence."""
    logger = logging.getLogger("speech_qc")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _drop_stdout() -> None:
    """Send what is still to be flushed nowhere, so that the interpreter's end is as quiet as this one."""
    if isinstance(sys.stdout, TextIOWrapper):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
