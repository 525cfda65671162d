"""Results of an archive, written without an engine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from signals import Float32, white_noise
from speech_qc.archive.dest import Destination
from speech_qc.archive.rows import Identity, as_table, channel_rows, failed_row
from speech_qc.embedded.detector import Detector

RATE_HZ = 16_000
LOUD, QUIET = white_noise(1.5, level_dbfs=-12), white_noise(1.5, level_dbfs=-30)
"""The echo model scores both as speech; the tests' profile fails the loud one."""
IDENTITY = Identity("echo 1.0", "0" * 64, "default")


def item(uri: str, manifest: Mapping[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """Return a row of `schema.ITEMS`."""
    text = None if manifest is None else json.dumps(manifest)
    return {"uri": uri, "offset_s": None, "length_s": None, "channel": None, "etag": "1-1", "manifest": text, **fields}


def inspected(detector: Detector, of: dict[str, Any], *channels: Float32) -> list[dict[str, Any]]:
    """Return the rows of an inspected item."""
    found = detector.inspect(np.stack(channels, axis=1), sample_rate=RATE_HZ, frames=False)
    return channel_rows(of, len(channels), found.to_dict(), IDENTITY)


def failed(of: dict[str, Any], message: str) -> list[dict[str, Any]]:
    """Return the row of an item that could not be inspected."""
    return [failed_row(of, "invalid_audio", message, IDENTITY)]


def write_results(folder: Path, *runs: Sequence[dict[str, Any]]) -> str:
    """Write rows, a file for each run; return the name of the results."""
    for rows in runs:
        with Destination(str(folder)) as destination:
            destination.add(as_table(rows))
            destination.flush()
    return str(folder)
