"""The command line `speech-qc`: declares the options and maps every outcome to an exit code.

The commands are implemented in the other modules of `speech_qc.cli`, which are imported only when a command runs, so
that `--help` is fast.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from speech_qc.cli.options import (
    ArchiveEngine,
    ExportFormat,
    ExportStatus,
    FailOn,
    Format,
    InspectCommand,
    InspectFailOn,
    KeyRight,
    PeriodChoice,
    Question,
)
from speech_qc.cli.seams import CommandError, Seams
from speech_qc.errors import SpeechQCError
from speech_qc.exit_codes import CLOSED_PIPE, ERROR, INTERRUPTED, OK
from speech_qc.version import __version__
from speech_qc.wire.vocabulary import Device, Encoding, LogLevel, RawEncoding

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
    help="Detects noise and interference in speech: scores every 20 ms, events, levels, verdicts.",
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
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the command."""


@app.command(
    "inspect",
    epilog="Exit codes: 0 nothing reached --fail-on, 1 a verdict or a skipped file did, 2 an error, such as an "
    "unreadable recording, an invalid option or a missing model. An error takes precedence over verdicts; it does not "
    "stop the other files.",
)
def _inspect(
    context: typer.Context,
    files: Annotated[
        list[str],
        typer.Argument(
            help="Recordings, folders (searched recursively), quoted glob patterns, or - for standard input.",
            metavar="FILES",
        ),
    ],
    form: Annotated[
        Format,
        typer.Option(
            "--format",
            "-f",
            help="Output format. json: one document, or an array for several files; jsonl: a line per file.",
        ),
    ] = Format.table,
    out: Annotated[
        Path | None, typer.Option(help="Folder for one result file per recording.", show_default=False)
    ] = None,
    profile: Annotated[str | None, typer.Option(help="Verdict profile.", show_default=False)] = None,
    labels: Annotated[str | None, typer.Option(help="Comma-separated labels; all by default.")] = None,
    channels: Annotated[
        str,
        typer.Option(
            help="split: inspect each channel separately; mix: their mean. With --encoding also the number of "
            "channels, as in 2 or 2,mix.",
            metavar="split|mix|N",
        ),
    ] = "split",
    encoding: Annotated[
        RawEncoding | None,
        typer.Option(help="Encoding of audio without a header; recordings have one.", show_default=False),
    ] = None,
    sample_rate: Annotated[
        int | None,
        typer.Option(help="Samples per second of audio without a header.", show_default=False),
    ] = None,
    frames: Annotated[
        bool, typer.Option("--frames/--no-frames", help="Include the scores of every 20 ms frame in JSON.")
    ] = True,
    scores: Annotated[
        bool, typer.Option("--scores", help="Print a line per 20 ms (table: up to 30 s; csv: instead of events).")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the evidence for each event: band, level over the floor, SNR, kind.")
    ] = False,
    legs: Annotated[
        str | None,
        typer.Option(
            help="Inspect the two channels as the legs of a call with these names, and show what happens between them.",
            metavar="NAME,NAME",
            show_default=False,
        ),
    ] = None,
    show_digits: Annotated[
        bool, typer.Option("--show-digits", help="Name the telephone keys in tones; by default they are masked.")
    ] = False,
    fail_on: Annotated[
        list[InspectFailOn] | None,
        typer.Option(
            help="Exit 1 if any verdict is at least this severe. 'unknown' (no speech, too short) counts only with "
            "'warn'. 'skipped': exit 1 if a folder has files that do not look like audio. May be repeated.",
            show_default="fail",
        ),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Use this server instead of running the model here.", show_default=False)
    ] = None,
    api_key_file: KeyFile = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Draw the recording, its scores and events (.png, .svg or .pdf). With several recordings, -1, -2 … is "
            "added to the name; with several channels, -ch0, -ch1 …",
            show_default=False,
        ),
    ] = None,
    model: Model = None,
    device: On = None,
) -> None:
    """Inspect recordings: what disturbs the speech, where, and whether the quality is good enough."""
    from speech_qc.cli.inspect import inspect

    question = Question(profile, labels, channels, frames, explain, encoding, sample_rate, show_digits, legs)
    causes = fail_on or [InspectFailOn.fail]
    command = InspectCommand(files, form, out, question, scores, causes, url, plot, model, device, api_key_file)
    with _quiet_log():
        _run(lambda: inspect(command, context.obj))


@app.command(
    "rtp",
    epilog="Exit codes: 0 no verdict reached --fail-on, 1 one did, 2 an error, such as a capture without RTP.",
)
def _rtp(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="Capture (pcap or pcapng), or - for standard input.", metavar="FILE")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON document of POST /v1/inspect.")] = False,
    frames: Annotated[bool, typer.Option("--frames", help="Include the scores of every 20 ms frame in JSON.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for a WAV file of each stream, leg-0.wav and so on, with zeros for what was not received.",
            show_default=False,
        ),
    ] = None,
    payload_types: Annotated[
        str | None,
        typer.Option(
            help="What dynamic payload types mean, such as 96=opus/48000/2,97=L16/16000; SIP in the capture is read.",
            show_default=False,
        ),
    ] = None,
    scores: Annotated[
        bool, typer.Option("--scores/--no-scores", help="Score the sound, or measure the transport only.")
    ] = True,
    profile: Annotated[str | None, typer.Option(help="Verdict profile.", show_default=False)] = None,
    show_digits: Annotated[
        bool, typer.Option("--show-digits", help="Name telephone keys; by default they are masked.")
    ] = False,
    fail_on: Annotated[
        FailOn, typer.Option(help="Exit 1 if any verdict is at least this severe; 'unknown' counts only with 'warn'.")
    ] = FailOn.fail,
    model: Model = None,
    device: On = None,
) -> None:
    """List the RTP streams of a packet capture: loss, jitter, pauses, and the quality of their sound."""
    from speech_qc.cli.rtp import RtpCommand, rtp

    command = RtpCommand(
        file, as_json, frames, out, payload_types, scores, profile, show_digits, fail_on, model, device
    )
    with _quiet_log():
        _run(lambda: rtp(command, context.obj))


@app.command("serve")
def _serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on, instead of SPEECHQC_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on, instead of SPEECHQC_PORT.")] = None,
    model: Model = None,
    device: On = None,
    log_level: Annotated[LogLevel | None, typer.Option(help="Minimum level of log messages.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Number of worker processes, instead of SPEECHQC_WORKERS.")
    ] = None,
) -> None:
    """Run the HTTP and WebSocket server; SPEECHQC_* environment variables set everything else."""
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
    epilog="Exit codes: 0 no verdict reached --fail-on, 1 a verdict reached it, 2 an error. Ctrl-C ends the stream "
    "gracefully, with a summary; a second Ctrl-C aborts it.",
)
def _stream(
    source: Annotated[str, typer.Argument(help="A recording, or - for raw samples on standard input.", metavar="FILE")],
    url: Annotated[str, typer.Option(help="Server to stream to.")] = "ws://127.0.0.1:8000",
    api_key_file: KeyFile = None,
    realtime: Annotated[
        bool | None,
        typer.Option(
            "--realtime/--fast",
            help="Send in real time (default for a recording), or as fast as the server accepts (default for -).",
            show_default=False,
        ),
    ] = None,
    encoding: Annotated[
        Encoding, typer.Option(help="Encoding of the samples that are sent; with -, of the input.")
    ] = "linear16",
    rate: Annotated[
        int | None,
        typer.Option(help="Samples per second; default: that of the recording, 16000 for -.", show_default=False),
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(min=1, max=2, help="Channels; default: those of the recording, 1 for -.", show_default=False),
    ] = None,
    emit_ms: Annotated[int, typer.Option(help="Audio between two score messages, ms.")] = 100,
    labels: Annotated[str | None, typer.Option(help="Comma-separated labels; all by default.")] = None,
    profile: Annotated[str | None, typer.Option(help="Verdict profile.", show_default=False)] = None,
    fail_on: Annotated[FailOn, typer.Option(help="Exit 1 if any verdict is at least this severe.")] = FailOn.fail,
    as_json: Annotated[bool, typer.Option("--json", help="Print every server message, one per line.")] = False,
) -> None:
    """Stream a recording or standard input to a server and watch the scores live."""
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
    epilog="Exit codes: 0 a number was found, 1 even the smallest number failed, 2 an error.",
)
def _capacity(
    p99_ms: Annotated[float, typer.Option(min=1, help="Limit of the lag's 99th percentile, ms.")] = 150.0,
    message_ms: Annotated[int, typer.Option(min=10, max=1000, help="Audio in one message, ms.")] = 100,
    emit_ms: Annotated[int, typer.Option(min=20, max=1000, help="Audio between two score messages, ms.")] = 100,
    most: Annotated[int, typer.Option("--max", min=1, max=20_000, help="Maximum number of streams to try.")] = 2000,
    seconds: Annotated[float, typer.Option(min=1, help="Measured time per trial, s.")] = 10.0,
    minutes_limit: Annotated[
        float, typer.Option(min=0.1, help="Time limit, minutes: no trial starts that would exceed it.")
    ] = 6.0,
    url: Annotated[
        str | None, typer.Option(help="Measure this server instead of starting one here.", show_default=False)
    ] = None,
    api_key_file: KeyFile = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=64, help="Processes of the server to start.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure how many live streams this machine sustains, and which limit to set."""
    from speech_qc.capacity.trial import Conditions
    from speech_qc.cli.capacity import CapacityOptions, capacity

    conditions = Conditions(message_ms, emit_ms, seconds)
    options = CapacityOptions(p99_ms, conditions, most, 60 * minutes_limit, url, workers, api_key_file)
    with _quiet_log():
        _run(lambda: capacity(options, as_json=as_json))


@app.command("model")
def _model(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON document of GET /v1/model.")] = False,
    model: Model = None,
    device: On = None,
) -> None:
    """Print what the model declares: name, labels with thresholds, latency."""
    from speech_qc.cli.model import model as show_model

    with _quiet_log():
        _run(lambda: show_model(model, device, as_json=as_json, seams=context.obj))


@app.command("settings", epilog="Exit codes: 0 all values are valid, 2 one is invalid.")
def _settings(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the page docs/settings.md, independent of this environment.")
    ] = False,
) -> None:
    """Print every setting with its value and source; secrets are hidden."""
    from speech_qc.cli.settings import settings

    _run(lambda: settings(as_json=as_json, as_markdown=as_markdown))


@app.command(
    "doctor",
    epilog="Exit codes: 0 no problems, 1 the service will run, but with problems, 2 the service will not run.",
)
def _doctor(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Check whether this machine can run the service with these settings, with advice on each problem."""
    from speech_qc.cli.doctor import doctor

    with _quiet_log():
        _run(lambda: doctor(as_json=as_json))


class _ArchiveCommands(TyperGroup):
    """Lets `archive SOURCE` stand for `archive run SOURCE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["run", *args]
        rest: list[str] = super().parse_args(ctx, args)
        return rest


archive_app = typer.Typer(
    cls=_ArchiveCommands,
    help="Inspect an archive of recordings into a Parquet data set, and report on it; `archive SOURCE …` is short for "
    "`archive run SOURCE …`.",
    no_args_is_help=True,
)
app.add_typer(archive_app, name="archive")


@archive_app.command(
    "run",
    epilog="Exit codes: 0 everything is inspected, also if recordings could not be read (their rows say why), 2 the "
    "work could not begin or go on. Run it again to go on.",
)
def _archive_run(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Folders (searched recursively), quoted glob patterns, files, text files with a path per line, "
            "s3://bucket/folder, or data sets.",
            metavar="SOURCE",
        ),
    ],
    out: Annotated[str, typer.Option(help="Folder for the results, or s3://bucket/folder.", metavar="DEST")],
    engine: Annotated[ArchiveEngine, typer.Option(help="local: this machine's cores; ray: a Ray cluster.")] = (
        ArchiveEngine.local
    ),
    profile: Annotated[str | None, typer.Option(help="Verdict profile.", show_default=False)] = None,
    frames: Annotated[bool, typer.Option("--frames", help="Keep the scores of every 20 ms frame.")] = False,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Worker processes; by default one per core, of the cluster with ray."),
    ] = None,
    gpus: Annotated[
        float, typer.Option(min=0, help="GPUs of each worker with ray, also a fraction such as 0.25.")
    ] = 0.0,
    keep_old: Annotated[
        bool,
        typer.Option(
            "--keep-old",
            help="Keep the rows of recordings that are inspected again, because they, the model or the profile have "
            "changed; by default new rows replace them.",
        ),
    ] = False,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Inspect recordings again that had an error.")
    ] = False,
    write_every: Annotated[
        float, typer.Option(min=0, help="Seconds between files in DEST; a run that is killed loses no more.")
    ] = 30.0,
    model: Model = None,
    device: On = None,
    column: Annotated[str, typer.Option(help="Audio column of Parquet and Hugging Face data sets.")] = "audio",
) -> None:
    """Inspect what is missing in DEST: each recording once, also after an interruption."""
    from speech_qc.cli.archive import ArchiveCommand, archive

    command = ArchiveCommand(
        sources,
        out,
        engine.value,
        profile,
        frames,
        workers,
        gpus,
        keep_old,
        retry_errors,
        write_every,
        model,
        device,
        column,
    )
    with _quiet_log():
        _run(lambda: archive(command))


@archive_app.command("export")
def _archive_export(
    results: Annotated[str, typer.Argument(help="Results of `archive run`.", metavar="DEST")],
    form: Annotated[
        ExportFormat,
        typer.Option(
            "--format",
            "-f",
            help="nemo: a manifest with our columns; label-studio: tasks with a region per event; the others: a file "
            "of events per recording.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="File to write, or folder for a file per recording; by default standard output."),
    ] = None,
    status: Annotated[
        list[ExportStatus] | None,
        typer.Option(help="Only recordings with this verdict, or error; may be repeated.", show_default="all"),
    ] = None,
    root: Annotated[
        str | None, typer.Option(help="label-studio: folder for which --url stands.", show_default=False)
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="label-studio: address at which it serves --root.", show_default=False)
    ] = None,
) -> None:
    """Write results as manifests, tasks or label tracks of other tools."""
    from speech_qc.cli.archive_export import ExportCommand, export

    command = ExportCommand(results, form.value, out, [one.value for one in status or ()], root, url)
    _run(lambda: export(command))


@app.command(
    "baseline",
    epilog="For a schedule: --json for the names, --metrics for Prometheus. Exit codes: 0 compared, 2 an error.",
)
def _baseline(
    results: Annotated[
        str,
        typer.Argument(
            help="Results of `archive run`, or SPEECHQC_RESULTS_URL of a server, for its live calls.", metavar="DEST"
        ),
    ],
    by: Annotated[
        str,
        typer.Option(
            help="What to compare, such as trunk: a column of the manifest, or a field of --by-path. For calls: trunk, "
            "vendor or role."
        ),
    ],
    by_path: Annotated[
        str | None,
        typer.Option(help="Pattern of the ends of paths, with fields in braces, as in {trunk}/{day}/*.wav."),
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(
            help="Column or field that says when it was recorded: ISO 8601, or seconds or milliseconds since 1970; by "
            "default started_at and such, or a date in the path."
        ),
    ] = None,
    period: Annotated[
        PeriodChoice, typer.Option(help="Recordings of a period are compared together, once it has ended.")
    ] = PeriodChoice.day,
    history: Annotated[
        int, typer.Option(min=10, help="Periods that make up the normal range; the last ones before each.")
    ] = 28,
    min_recordings: Annotated[
        int, typer.Option(min=1, help="A period of a group with fewer recordings is not used.")
    ] = 10,
    false_alarm_rate: Annotated[
        float,
        typer.Option(help="Probability of any false alarm in one period, all groups and measures together."),
    ] = 0.01,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    metrics: Annotated[
        Path | None,
        typer.Option(help="File (.prom) for the text-file collector of Prometheus' node exporter.", show_default=False),
    ] = None,
) -> None:
    """Find the normal range of each trunk, device or speaker, and which of them left theirs when."""
    from speech_qc.cli.baseline import BaselineCommand, baseline

    command = BaselineCommand(
        results, by, time, by_path, period.value, history, min_recordings, false_alarm_rate, as_json, metrics
    )
    _run(lambda: baseline(command))


@archive_app.command("report", epilog="Exit codes: 0 the report is written, 2 the results cannot be read.")
def _archive_report(
    archive: Annotated[str, typer.Argument(help="The results of `speech-qc archive`.", metavar="DEST")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the page and the Parquet files; by default DEST/_report, or ./report for s3://.",
            show_default=False,
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(help="Column to group by, of the manifest, or sample_rate_hz, encoding; may be repeated."),
    ] = None,
    by_path: Annotated[
        str | None,
        typer.Option(help="Pattern of the ends of paths whose fields to group by, as in {trunk}/{agent}-*.wav."),
    ] = None,
    date: Annotated[
        str | None,
        typer.Option(help="Column or field with the date; by default a date is looked for in columns and paths."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what an archive holds: shares, distributions, what limits would keep, groups, drift, duplicates."""
    from speech_qc.cli.archive_report import report

    _run(lambda: report(archive, out, by or [], by_path, date, as_json=as_json))


keys_app = typer.Typer(help="Create, list and remove API keys.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")

KeysFile = Annotated[
    Path | None, typer.Option("--file", help="Keys file, instead of SPEECHQC_API_KEYS_FILE.", show_default=False)
]


@keys_app.command("add")
def _keys_add(
    name: Annotated[str, typer.Argument(help="Name of the key's owner, for logs and lists.", metavar="NAME")],
    file: KeysFile = None,
    admin: Annotated[bool, typer.Option("--admin", help="The key has all rights.")] = False,
    right: Annotated[
        list[KeyRight] | None,
        typer.Option(
            help="Right of the key: send audio, watch calls, or admin (all); repeat it for several. Default: send.",
            show_default=False,
        ),
    ] = None,
    max_streams: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of concurrent live channels.", show_default=False)
    ] = None,
    uploads_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of uploads per minute.", show_default=False)
    ] = None,
) -> None:
    """Create a key and print it once; the file stores only its hash."""
    from speech_qc.cli.keys import add

    limits = {"max_streams": max_streams, "uploads_per_minute": uploads_per_minute}
    _run(lambda: add(name, file, admin=admin, rights=[one.value for one in right or ()], **limits))


@keys_app.command("list")
def _keys_list(file: KeysFile = None) -> None:
    """Print the ids, names and limits of all keys."""
    from speech_qc.cli.keys import show

    _run(lambda: show(file))


@keys_app.command("remove")
def _keys_remove(
    key: Annotated[str, typer.Argument(help="Id of a key, or its name if that is unique.", metavar="KEY")],
    file: KeysFile = None,
) -> None:
    """Remove a key; a running server rejects it within seconds."""
    from speech_qc.cli.keys import remove

    _run(lambda: remove(key, file))


def main(argv: Sequence[str] | None = None, *, seams: Seams | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; None for those of the process.
        seams: Replacements for the model loader, the network or the server.

    Returns:
        The exit code: 0 success, 1 a verdict at least as severe as `--fail-on`, 2 an error.
    """
    try:
        app(None if argv is None else list(argv), prog_name="speech-qc", obj=seams or Seams())
    except SystemExit as end:
        if end.code is None:
            return OK
        return end.code if isinstance(end.code, int) else ERROR
    return OK


def _run(command: Callable[[], int]) -> NoReturn:
    """Run a command and exit with its code; handle interrupts here, since the option parser treats them differently."""
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
    """Keep the service's log off the terminal: the command reports each problem as one error message."""
    logger = logging.getLogger("speech_qc")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _drop_stdout() -> None:
    """Redirect standard output to the null device, so that the interpreter's final flush does not fail."""
    if isinstance(sys.stdout, TextIOWrapper):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
