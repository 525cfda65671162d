"""The `model` command: prints what a model file declares."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from speech_qc.cli.seams import Seams
from speech_qc.cli.tables import open_table, output_console, without_padding
from speech_qc.contract import LabelSpec
from speech_qc.exit_codes import OK
from speech_qc.pipeline.documents import model_answer
from speech_qc.scoring import load_profiles
from speech_qc.settings import load_settings


def model(path: Path | None, device: str | None, *, as_json: bool, seams: Seams) -> int:
    """Load a model as the service does, and print its contract.

    Args:
        path: Model file; None for the one in the settings.
        device: Device to load it on; None for the one in the settings.
        as_json: Print one JSON document, the same as `GET /v1/model`.
        seams: Provides the model loader.

    Returns:
        The exit code.

    Raises:
        StartupError: The model cannot be loaded.
    """
    settings = load_settings(model_path=path, device=device)
    runner = seams.make_runner(settings)
    contract = runner.contract
    answer = model_answer(runner, load_profiles(settings.profiles_path), settings.default_profile)
    document = answer.model_dump(mode="json")
    if as_json:
        text = orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n"
    else:
        console = output_console(sys.stdout)
        with console.capture() as capture:
            console.print(_page(document, contract.labels))
        text = without_padding(capture.get())
    sys.stdout.write(text.encode(sys.stdout.encoding or "utf-8", "replace").decode(sys.stdout.encoding or "utf-8"))
    sys.stdout.flush()
    return OK


def _page(document: Mapping[str, Any], labels: tuple[LabelSpec, ...]) -> RenderableType:
    facts = Table.grid(padding=(0, 2))
    facts.add_row("model", Text(f"{document['model']['name']} {document['model']['version']}", style="bold"))
    facts.add_row("sha256", document["model"]["sha256"])
    facts.add_row("provider", document["provider"])
    facts.add_row("profiles", ", ".join(document["profiles"]))
    facts.add_row("scores", f"one per {1000 * document['frame_hop_s']:g} ms")
    facts.add_row("latency", f"{1000 * document['latency_s']:g} ms after the end of a frame")
    table = open_table()
    for heading in ("label", "family", "kind"):
        table.add_column(heading)
    for heading in ("range", "enter", "exit", "min. length s", "merged gap s"):
        table.add_column(heading, justify="right")
    for label in labels:
        rule = (label.enter, label.exit, label.min_duration_s, label.merge_gap_s)
        has_events = label.kind == "probability"
        table.add_row(
            label.name,
            label.family,
            label.kind,
            f"{label.low:g} … {label.high:g}",
            *(f"{value:g}" if has_events and value is not None else "–" for value in rule),
        )
    parts: list[RenderableType] = [facts, table]
    if document["contract"]["metrics"]:
        parts.append(Text("For metrics and the sources of the training data, use --json.", style="dim"))
    return Group(*parts)
