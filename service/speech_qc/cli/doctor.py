"""The `doctor` command: checks whether this machine can run the service with these settings."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict

import orjson
from rich.text import Text

from speech_qc.cli.doctor_checks import CheckResult, all_results
from speech_qc.cli.tables import open_table, output_console, without_padding
from speech_qc.errors import SettingsError
from speech_qc.exit_codes import ERROR, FOUND, OK
from speech_qc.settings import load_settings

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(*, as_json: bool) -> int:
    """Run every check and print the results with advice.

    Returns:
        0 if there are no problems, 1 if the service will run but with problems, 2 if it will not run.
    """
    findings = list(_findings())
    text = _json(findings) if as_json else _page(findings)
    sys.stdout.write(text.encode(sys.stdout.encoding or "utf-8", "replace").decode(sys.stdout.encoding or "utf-8"))
    sys.stdout.flush()
    return exit_code(findings)


def exit_code(findings: list[CheckResult]) -> int:
    """Return the exit code for the worst result."""
    states = {finding.state for finding in findings}
    return ERROR if "fail" in states else FOUND if "warn" in states else OK


def _findings() -> Iterator[CheckResult]:
    try:
        settings = load_settings()
    except SettingsError as error:
        yield CheckResult("settings", "fail", str(error), "correct the settings; the other checks need them")
        return
    yield CheckResult("settings", "ok", "every value is within its bounds")
    yield from all_results(settings)


def _json(findings: list[CheckResult]) -> str:
    document = {"exit_code": exit_code(findings), "findings": [asdict(finding) for finding in findings]}
    return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n"


def _page(findings: list[CheckResult]) -> str:
    table = open_table()
    for heading in ("check", "", "found"):
        table.add_column(heading)
    for finding in findings:
        found = Text(finding.text)
        if finding.advice:
            found.append(f"\n→ {finding.advice}", style="bold" if finding.state != "ok" else "dim")
        table.add_row(finding.name, Text(finding.state, style=STYLES[finding.state]), found)
    console = output_console(sys.stdout)
    with console.capture() as capture:
        console.print(table)
    return without_padding(capture.get())
