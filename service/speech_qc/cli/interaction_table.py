"""Shows what happens between the legs of a call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text


def interaction_tables(interaction: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Yield a table of the legs and one of the events between them."""
    legs = _table("leg", "talk %", "silence %", "interruptions", "answers after s", "95 % within s")
    for leg in interaction["legs"]:
        response = leg["response_s"] or {}
        legs.add_row(
            _plain(leg["role"]),
            _percent(leg["talk_ratio"]),
            _percent(leg["silence_ratio"]),
            str(leg["interruptions"]),
            _seconds(response.get("median")),
            _seconds(response.get("p95")),
        )
    yield legs
    if not interaction["events"]:
        yield Text("Nothing between the legs.", style="dim")
        return
    events = _table("between the legs", "leg", "onset s", "offset s", "detail")
    for event in interaction["events"]:
        detail = event.get("detail")
        events.add_row(
            event["label"],
            _plain(event["leg"] or "–"),
            _seconds(event["onset_s"]),
            _seconds(event["offset_s"]),
            "" if detail is None else f"{detail['lag_ms']} ms later, {detail['loss_db']:.0f} dB lower",
        )
    yield events
    if interaction.get("events_dropped"):
        yield Text(f"{interaction['events_dropped']} further events are not listed.", style="dim")


def _table(*headings: str) -> Table:
    table = Table(header_style="bold", box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for place, heading in enumerate(headings):
        table.add_column(
            heading, justify="right" if heading.endswith((" %", " s", "interruptions")) and place else "left"
        )
    return table


def _plain(name: str) -> Text:
    return Text("".join(char if char.isprintable() else "?" for char in name))


def _percent(ratio: float | None) -> str:
    return "–" if ratio is None else f"{100 * ratio:.0f}"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
