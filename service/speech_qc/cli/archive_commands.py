"""Options of the commands on archives of recordings, and of `baseline`, which compares their results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from speech_qc.cli.options import ArchiveEngine, ExportFormat, ExportStatus, PeriodChoice
from speech_qc.cli.run import Model, On, quiet_log, run

app = typer.Typer()


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
    with quiet_log():
        run(lambda: archive(command))


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
    run(lambda: export(command))


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
    run(lambda: baseline(command))


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

    run(lambda: report(archive, out, by or [], by_path, date, as_json=as_json))
