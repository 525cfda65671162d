"""Builds the rows of `schema.ROWS` from what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from speech_qc.archive.items import ArchiveError
from speech_qc.archive.schema import ROWS
from speech_qc.errors import SpeechQCError

Row = dict[str, Any]
UNREADABLE = "unreadable"
"""Error code of a recording whose bytes cannot be read."""
INTERNAL = "internal_error"
WORKER_DIED = "worker_died"
"""Error code of a recording whose inspection ends its process every time."""

MAPS = {"summary": ("snr_by_kind_db", "unknown"), "levels": ("unknown",), "stereo": ("unknown",)}
"""Fields of a document that are objects with any keys; Arrow takes them as pairs."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What every row says about its inspection.

    Args:
        model: Name and version.
        model_sha256: Checksum of the model file.
        profile: Name of the verdict profile.
    """

    model: str
    model_sha256: str
    profile: str


def now() -> datetime:
    """Return the time for `inspected_at`; the same for all rows of an item."""
    return datetime.now(UTC)


def channel_rows(item: Mapping[str, Any], channels: int | None, document: Row, identity: Identity) -> list[Row]:
    """Return the rows of an inspected item.

    Args:
        item: A row of `schema.ITEMS`.
        channels: Channels of the recording.
        document: As from `inspection_document`.
        identity: Model and profile.
    """
    audio, time = document["audio"], now()
    common = _item_fields(item, identity) | {
        "channels": channels,
        "duration_s": audio["duration_s"],
        "sample_rate_hz": audio["sample_rate_hz"],
        "encoding": audio["encoding"],
        "warnings": document["warnings"],
        "stereo": _with_pairs("stereo", document.get("stereo")),
        "inspected_at": time,
    }
    return [
        common
        | {
            "channel": answer["channel"] if item["channel"] is None else item["channel"],
            "status": answer["verdict"]["status"],
            "reasons": answer["verdict"]["reasons"],
            "summary": _with_pairs("summary", answer["summary"]),
            "levels": _with_pairs("levels", answer["levels"]),
            "events": answer["events"],
            "events_dropped": answer.get("events_dropped", 0),
            "frames": list(answer["frames"].items()) if "frames" in answer else None,
        }
        for answer in document["channels"]
    ]


def error_row(item: Mapping[str, Any], error: Exception, identity: Identity) -> Row:
    """Return the row of an item that cannot be inspected."""
    if isinstance(error, SpeechQCError):
        code, message = error.code, error.message
    elif isinstance(error, ArchiveError):
        code, message = UNREADABLE, str(error)
    elif isinstance(error, OSError):
        code, message = UNREADABLE, f"expected to read the recording, got {type(error).__name__}: {error}"
    else:
        code, message = INTERNAL, f"the inspection failed with {type(error).__name__}: {error}"
    return failed_row(item, code, message, identity)


def failed_row(item: Mapping[str, Any], code: str, message: str, identity: Identity) -> Row:
    """Return the row of an item that cannot be inspected, for this reason."""
    return _item_fields(item, identity) | {
        "channel": item["channel"],
        "error": {"code": code, "message": message.encode("utf-8", "backslashreplace").decode()},
        "inspected_at": now(),
    }


def as_table(rows: Sequence[Row]) -> pa.Table:
    """Return rows as a table of `schema.ROWS`; absent fields are null."""
    return pa.Table.from_pylist(rows, schema=ROWS)


def _item_fields(item: Mapping[str, Any], identity: Identity) -> Row:
    return {
        "uri": item["uri"],
        "offset_s": item["offset_s"],
        "length_s": item["length_s"],
        "asked_channel": item["channel"],
        "etag": item["etag"],
        "manifest": item["manifest"],
        "model": identity.model,
        "model_sha256": identity.model_sha256,
        "profile": identity.profile,
    }


def _with_pairs(name: str, found: Row | None) -> Row | None:
    return None if found is None else found | {field: list(found[field].items()) for field in MAPS[name]}
