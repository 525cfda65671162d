"""The findings about one recording as flat columns, for tables, manifests and data sets of other tools.

A recording has one row there, but may have several channels: the figures are those of its worst channel, which
`qc_channel` names. The events are those of all channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from speech_qc.results import WORST_FIRST, Inspection

SUMMARY_FIGURES = (
    "quality",
    "snr_db",
    "speech_ratio",
    "noise_ratio",
    "interference_ratio",
    "sig",
    "bak",
    "ovrl",
    "reverberation",
    "lost_ratio",
)
LEVEL_FIGURES = ("bandwidth_hz", "rms_dbfs", "loudness_lufs", "noise_floor_dbfs", "clipped_ratio")

Kind = Literal["text", "number", "index", "texts", "events"]

COLUMNS: Mapping[str, Kind] = MappingProxyType(
    {
        "qc_status": "text",
        "qc_reasons": "texts",
        "qc_channel": "index",
        **{f"qc_{name}": "number" for name in (*SUMMARY_FIGURES, *LEVEL_FIGURES)},
        "qc_events": "events",
        "qc_model": "text",
        "qc_profile": "text",
        "qc_error": "text",
    }
)
"""Every column and its kind, in the order of the result."""

EVENT_FIELDS: Mapping[str, Kind] = MappingProxyType(
    {
        "channel": "index",
        "label": "text",
        "onset_s": "number",
        "offset_s": "number",
        "score_max": "number",
        "score_mean": "number",
        "severity": "text",
    }
)
"""Fields of each event in `qc_events`."""


def flat_columns(channels: Sequence[Mapping[str, Any]], *, model: str | None, profile: str | None) -> dict[str, Any]:
    """Return the columns of one recording.

    Args:
        channels: At least one channel as in the response of `POST /v1/inspect`: `channel`, `verdict`, `summary`,
            `levels`, `events`. Figures that are absent become None.
        model: Name and version of the model.
        profile: Profile that judged.

    Returns:
        All of `COLUMNS`, in their order.
    """
    worst = min(channels, key=_badness)
    summary, levels = worst["summary"] or {}, worst["levels"] or {}
    events = [
        {"channel": channel["channel"], **{name: event[name] for name in EVENT_FIELDS if name != "channel"}}
        for channel in channels
        for event in channel["events"] or ()
    ]
    events.sort(key=lambda event: (event["onset_s"], event["channel"], event["label"]))
    return {
        "qc_status": worst["verdict"]["status"],
        "qc_reasons": [reason["code"] for reason in worst["verdict"]["reasons"] or ()],
        "qc_channel": worst["channel"],
        **{f"qc_{name}": summary.get(name) for name in SUMMARY_FIGURES},
        **{f"qc_{name}": levels.get(name) for name in LEVEL_FIGURES},
        "qc_events": events,
        "qc_model": model,
        "qc_profile": profile,
        "qc_error": None,
    }


def columns_of(found: Inspection) -> dict[str, Any]:
    """Return the columns of an inspection; see `flat_columns`."""
    channels = found.to_dict()["channels"]
    return flat_columns(channels, model=f"{found.model.name} {found.model.version}", profile=found.profile)


def error_columns(message: str) -> dict[str, Any]:
    """Return the columns of a recording that could not be inspected; only `qc_error` has a value."""
    return {name: [] if kind in ("texts", "events") else None for name, kind in COLUMNS.items()} | {"qc_error": message}


def _badness(channel: Mapping[str, Any]) -> tuple[int, float, int]:
    quality = (channel["summary"] or {}).get("quality")
    rank = WORST_FIRST.index(channel["verdict"]["status"])
    return rank, float("inf") if quality is None else quality, channel["channel"]
