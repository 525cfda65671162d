"""The command line `speech-qc`: its entry point, and the options of the commands on recordings.

The commands are implemented in the other modules of `speech_qc.cli`, which are imported only when a command runs, so
that `--help` is fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from speech_qc.cli import archive_commands, server_commands
from speech_qc.cli.options import FailOn, Format, InspectCommand, InspectFailOn, Question
from speech_qc.cli.run import KeyFile, Model, On, quiet_log, run
from speech_qc.cli.seams import Seams
from speech_qc.exit_codes import ERROR, OK
from speech_qc.version import __version__
from speech_qc.wire.vocabulary import RawEncoding

app = typer.Typer(
    name="speech-qc",
    help="Detects noise and interference in speech: scores every 20 ms, events, levels, verdicts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(server_commands.app)
app.add_typer(archive_commands.app)
app.add_typer(server_commands.keys_app, name="keys")


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
    with quiet_log():
        run(lambda: inspect(command, context.obj))


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
    with quiet_log():
        run(lambda: rtp(command, context.obj))


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
