"""The `capacity` command: how many live streams this machine, or another server, sustains within a lag limit."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from speech_qc.capacity.host import Host, HostError, allow_open_files, is_local, started_server
from speech_qc.capacity.search import SAFE_SHARE, Search, Trial, advised_limit
from speech_qc.capacity.trial import Conditions, Target, run_trial
from speech_qc.cli.api_key_option import api_key_for
from speech_qc.cli.seams import CommandError
from speech_qc.cli.tables import open_table, output_console, without_padding
from speech_qc.exit_codes import FOUND, OK

FIRST = 32
SPARE_PLACES = 16
"""Extra places of the server that is started: streams of the previous trial may take a moment to close."""
FILES_PER_STREAM, OTHER_FILES = 1, 256
LATE_MS = 20.0
"""If clients send later than this at the 99th percentile, they were the bottleneck."""


@dataclass(frozen=True, slots=True)
class CapacityOptions:
    """Options of the command.

    Args:
        p99_ms: Limit of the lag's 99th percentile.
        conditions: Conditions of every trial.
        most: Maximum number of streams to try.
        limit_s: Time limit; no trial starts that would exceed it.
        url: Server to measure; None to start one.
        workers: Processes of the server to start; None for the value in the settings.
        api_key_file: File with the key for the server at `url`; None for the environment variable.
    """

    p99_ms: float = 150.0
    conditions: Conditions = field(default_factory=Conditions)
    most: int = 2000
    limit_s: float = 360.0
    url: str | None = None
    workers: int | None = None
    api_key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class CapacityResult:
    """Result of the search.

    Args:
        model: Name and version of the server's model.
        trials: All trials, in the order in which they ran.
        found: Largest number of streams that passed; 0 if even the smallest failed.
        complete: Whether the search finished within the time limit and below the maximum number.
        ended: Why it ended.
        workers: Processes of the server.
    """

    model: str
    trials: list[Trial]
    found: int
    complete: bool
    ended: str
    workers: int = 1


def measure(options: CapacityOptions, notes: Console) -> CapacityResult:
    """Search for the largest number of streams that passes; block for minutes.

    Args:
        options: Options of the command.
        notes: Console for progress messages.

    Raises:
        HostError: There is no server to measure, or the clients failed.
        CommandError: The key cannot be read.
    """
    deadline = time.monotonic() + options.limit_s
    with _host(options) as host:
        target = Target.of(host)
        model, workers = host.model()["model"], host.workers()
        search, trials, ended = Search(min(FIRST, options.most), options.most), list[Trial](), ""
        while (streams := search.next()) is not None:
            if trials and time.monotonic() + options.conditions.seconds(streams) > deadline:
                ended = f"the time limit was reached before {streams} streams could be tried"
                break
            notes.print(Text(f"{streams} streams …"), end=" ")
            trial = run_trial(target, streams, options.conditions, seed=1 + len(trials))
            trials.append(trial)
            search.record(streams, held := trial.holds(options.p99_ms))
            notes.print(Text(f"p99 {trial.p99_ms:.0f} ms, {'passed' if held else 'failed'}{_fault(trial)}"))
    reached = search.holds >= options.most
    refused = any(trial.was_refused for trial in trials if trial.streams == search.fails)
    complete = not ended and not reached and not refused
    if refused and not ended:
        ended = (
            "the server has no more places, although the machine may sustain more; raise SPEECHQC_MAX_STREAMS there or "
            "the limit of the key, and measure again"
        )
    if not ended:
        ended = "the search reached the maximum number to try" if reached else "the next larger number failed"
    return CapacityResult(f"{model['name']} {model['version']}", trials, search.holds, complete, ended, workers)


@contextmanager
def _host(options: CapacityOptions) -> Iterator[Host]:
    """Provide the server to measure: the one at the URL, or one started here."""
    api_key = api_key_for(options.api_key_file, url=options.url)
    wanted = FILES_PER_STREAM * options.most + OTHER_FILES
    allowed = allow_open_files(wanted)
    if allowed < wanted:
        raise HostError(
            f"{options.most} streams need {wanted} open files, the limit is {allowed}: raise it (ulimit -n) or use "
            f"--max {max(1, allowed - OTHER_FILES)}"
        )
    if options.url is None:
        settings = {} if options.workers is None else {"workers": str(options.workers)}
        with started_server(options.most + SPARE_PLACES, **settings) as host:
            yield host
    else:
        yield Host(options.url, None, api_key)


def capacity(options: CapacityOptions, *, as_json: bool) -> int:
    """Run the command.

    Returns:
        The exit code.

    Raises:
        CommandError: There is no server to measure.
    """
    notes = Console(stderr=True, highlight=False, soft_wrap=True)
    if options.url is not None and not options.url.startswith(("http://", "https://")):
        raise CommandError(f"--url: expected an address like http://127.0.0.1:8000, got {options.url!r}")
    if options.url is not None and not is_local(options.url):
        notes.print(Text("the server is on another machine: the lag includes the network round trip"))
    try:
        finding = measure(options, notes)
    except HostError as error:
        raise CommandError(str(error)) from error
    if as_json:
        text = orjson.dumps(document(finding, options), option=orjson.OPT_INDENT_2).decode() + "\n"
    else:
        console = output_console(sys.stdout)
        with console.capture() as capture:
            console.print(page(finding, options))
        text = without_padding(capture.get())
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()
    return OK if finding.found else FOUND


def document(finding: CapacityResult, options: CapacityOptions) -> dict[str, Any]:
    """Return the result as a JSON document."""
    limit = advised_limit(finding.found, finding.workers) if finding.found else None
    return {
        "model": finding.model,
        "p99_limit_ms": options.p99_ms,
        **asdict(options.conditions),
        "streams": finding.found,
        "complete": finding.complete,
        "ended": finding.ended,
        "workers": finding.workers,
        "max_streams": limit,
        "trials": [
            asdict(trial) | {"lag_ms": dict(zip(("p50", "p90", "p95", "p99", "max"), trial.lag_ms, strict=True)),
                             "holds": trial.holds(options.p99_ms)}
            for trial in finding.trials
        ],
    }  # fmt: skip


COLUMNS = (
    "streams", "p50", "p90", "p95", "p99", "max", "answer p99", "server CPU", "client CPU", "KiB/stream", "batch",
    "lost", "failed", "passed",
)  # fmt: skip


def cells(trial: Trial, p99_ms: float) -> tuple[str, ...]:
    """Format one trial as the cells of a row, by `COLUMNS`."""
    return (
        str(trial.streams),
        *(_number(value, ".0f") for value in trial.lag_ms),
        _number(trial.answer_p99_ms, ".0f"),
        _percent(trial.server_cpu),
        _percent(trial.client_cpu),
        _number(trial.memory_kib, ".0f"),
        _number(trial.batch, ".1f"),
        str(trial.lost_frames),
        str(trial.failed),
        "yes" if trial.holds(p99_ms) else "no",
    )


def page(finding: CapacityResult, options: CapacityOptions) -> RenderableType:
    """Render the result for the terminal: a row per trial, ordered by streams, then the advice."""
    table: Table = open_table()
    for heading in COLUMNS:
        table.add_column(heading, justify="right", no_wrap=True)
    for trial in sorted(finding.trials, key=lambda trial: trial.streams):
        table.add_row(*cells(trial, options.p99_ms), style="" if trial.holds(options.p99_ms) else "dim")
    conditions = options.conditions
    about = (
        f"{finding.model}; messages of {conditions.message_ms} ms, scores every {conditions.emit_ms} ms, "
        f"{conditions.measure_s:g} s timed per trial. Lag in ms: from sending a frame's last sample to its scores. "
        "Answer: from sending the last sample that they depend on."
    )
    return Group(Text(about, style="dim"), Text(), table, Text(), Text(advice(finding, options), style="bold"))


def advice(finding: CapacityResult, options: CapacityOptions) -> str:
    """Return the result in words, with the limit to set."""
    if not finding.found:
        fewest = min(trial.streams for trial in finding.trials)
        why = f": {finding.ended}" if any(trial.was_refused for trial in finding.trials) else ""
        return f"Not even {fewest} streams stay within p99 {options.p99_ms:g} ms here{why}."
    least = "" if finding.complete else "at least "
    each = "" if finding.workers == 1 else f", for each of the {finding.workers} processes"
    text = (
        f"{least}{finding.found} streams stay within p99 {options.p99_ms:g} ms: {finding.ended}. "
        f"Set SPEECHQC_MAX_STREAMS={advised_limit(finding.found, finding.workers)} ({SAFE_SHARE:.0%} of that{each})."
    )
    if options.url is not None:
        text += " If this is the address of a load balancer, divide by the number of servers behind it."
    best = next(trial for trial in finding.trials if trial.streams == finding.found)
    if any(trial.late_p99_ms > LATE_MS for trial in finding.trials if trial.streams > best.streams):
        text += " Above that, the clients themselves were late: clients on another machine may show a higher number."
    return text[0].upper() + text[1:]


def _fault(trial: Trial) -> str:
    parts = [f"{trial.lost_frames} frames lost"] if trial.lost_frames else []
    if trial.failed:
        parts.append(f"{trial.failed} streams failed: {trial.reason}")
    return "".join(f"; {part}" for part in parts)


def _number(value: float | None, form: str) -> str:
    return "–" if value is None or value != value else f"{value:{form}}"


def _percent(cores: float | None) -> str:
    return "–" if cores is None else f"{100 * cores:.0f} %"
