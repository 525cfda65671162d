"""The `doctor` command: looks at the machine before the service has to live on it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict

import orjson
from rich.text import Text

from service.commands.checks import Finding, all_findings
from service.commands.tables import open_table, output_console, without_padding
from service.errors import SettingsError
from service.settings import load_settings

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(*, as_json: bool) -> int:
    """Run every check and say what to do.

    Returns:
        0 all well, 1 it will serve but not well, 2 it will not serve.
    """
    findings = list(_findings())
    text = _json(findings) if as_json else _page(findings)
    sys.stdout.write(text.encode(sys.stdout.encoding or "utf-8", "replace").decode(sys.stdout.encoding or "utf-8"))
    sys.stdout.flush()
    return exit_code(findings)


def exit_code(findings: list[Finding]) -> int:
    """The worst finding as a number."""
    states = {finding.state for finding in findings}
    return 2 if "fail" in states else 1 if "warn" in states else 0


def _findings() -> Iterator[Finding]:
    try:
        settings = load_settings()
    except SettingsError as error:
        yield Finding("settings", "fail", str(error), "correct them; the other checks need them")
        return
    yield Finding("settings", "ok", "every value is within its bounds")
    yield from all_findings(settings)


def _json(findings: list[Finding]) -> str:
    document = {"exit_code": exit_code(findings), "findings": [asdict(finding) for finding in findings]}
    return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n"


def _page(findings: list[Finding]) -> str:
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
