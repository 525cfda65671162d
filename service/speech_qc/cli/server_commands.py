"""Options of the commands that run, use, measure and check a server, and of those that keep its keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from speech_qc.cli.options import FailOn, KeyRight
from speech_qc.cli.run import KeyFile, Model, On, quiet_log, run
from speech_qc.wire.vocabulary import Encoding, LogLevel

app = typer.Typer()


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

    run(
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
    with quiet_log():
        run(lambda: stream(command))


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
    with quiet_log():
        run(lambda: capacity(options, as_json=as_json))


@app.command("model")
def _model(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON document of GET /v1/model.")] = False,
    model: Model = None,
    device: On = None,
) -> None:
    """Print what the model declares: name, labels with thresholds, latency."""
    from speech_qc.cli.model import model as show_model

    with quiet_log():
        run(lambda: show_model(model, device, as_json=as_json, seams=context.obj))


@app.command("settings", epilog="Exit codes: 0 all values are valid, 2 one is invalid.")
def _settings(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the page docs/settings.md, independent of this environment.")
    ] = False,
) -> None:
    """Print every setting with its value and source; secrets are hidden."""
    from speech_qc.cli.settings import settings

    run(lambda: settings(as_json=as_json, as_markdown=as_markdown))


@app.command(
    "doctor",
    epilog="Exit codes: 0 no problems, 1 the service will run, but with problems, 2 the service will not run.",
)
def _doctor(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Check whether this machine can run the service with these settings, with advice on each problem."""
    from speech_qc.cli.doctor import doctor

    with quiet_log():
        run(lambda: doctor(as_json=as_json))


keys_app = typer.Typer(help="Create, list and remove API keys.", no_args_is_help=True)

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
    run(lambda: add(name, file, admin=admin, rights=[one.value for one in right or ()], **limits))


@keys_app.command("list")
def _keys_list(file: KeysFile = None) -> None:
    """Print the ids, names and limits of all keys."""
    from speech_qc.cli.keys import show

    run(lambda: show(file))


@keys_app.command("remove")
def _keys_remove(
    key: Annotated[str, typer.Argument(help="Id of a key, or its name if that is unique.", metavar="KEY")],
    file: KeysFile = None,
) -> None:
    """Remove a key; a running server rejects it within seconds."""
    from speech_qc.cli.keys import remove

    run(lambda: remove(key, file))
