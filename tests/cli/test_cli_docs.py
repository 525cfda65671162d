from __future__ import annotations

import re
from pathlib import Path

import typer

from speech_qc.cli.main import app
from speech_qc.cli.options import FailOn, Format, InspectFailOn

DOCUMENT = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")


def test_every_command_and_option_is_documented() -> None:
    group = typer.main.get_command(app)
    commands = group.commands  # type: ignore[attr-defined]
    assert set(commands) == {"inspect", "stream", "serve", "capacity", "model", "settings", "doctor", "keys", "archive"}
    for name, command in commands.items():
        section = DOCUMENT.split(f"\n## {name}\n")[1].split("\n## ")[0]
        under = getattr(command, "commands", {}).values()
        parameters = [parameter for one in (command, *under) for parameter in one.params]
        options = {option for parameter in parameters for option in parameter.opts if option.startswith("--")}
        for option in options - {"--help"}:
            assert option in section, f"{name} {option}"


def test_every_format_and_fail_on_value_is_documented() -> None:
    for form in Format:
        assert f"`{form}`" in DOCUMENT
    for value in (*FailOn, *InspectFailOn):
        assert re.search(rf"--fail-on [^`]*\b{value}\b", DOCUMENT)
