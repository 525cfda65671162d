"""NeMo manifests: a JSON object per line with `audio_filepath`, and optionally `offset` and `duration`.

Source: NVIDIA, NeMo user guide, "ASR datasets: Preparing custom ASR data". Manifests of tarred data sets, which have
`shard_id`, are not supported.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from speech_qc.archive.items import Item
from speech_qc.archive.sources.files import checked_items, folder_of, json_lines, resolved, seconds

PATH, OFFSET, DURATION = "audio_filepath", "offset", "duration"


class NemoManifest:
    """Source: the entries of a manifest.

    An entry is the part that NeMo loads: `duration` seconds from `offset`. Without `offset`, it begins at the start;
    without `duration`, or with 0, it ends with the recording.

    Args:
        path: The manifest, `.jsonl` or `.json`, which may be compressed (`.gz`).
    """

    opener: str | None = None

    def __init__(self, path: str) -> None:
        self._path = path

    def items(self) -> Iterator[Item]:
        """List the entries in their order."""
        return checked_items(self._path, partial(json_lines, self._path), partial(_items, folder=folder_of(self._path)))


def _items(entry: Any, folder: str) -> list[Item]:
    if not isinstance(entry, dict):
        raise ValueError(f"expected a JSON object, got {type(entry).__name__}")
    if "shard_id" in entry:
        raise ValueError("expected the path of a recording, got an entry of a tarred data set (shard_id)")
    path = entry.get(PATH)
    if not isinstance(path, str) or not path:
        raise ValueError(f"expected {PATH} with the path of a recording, got {path!r}")
    offset_s = seconds(entry.get(OFFSET), OFFSET)
    length_s = seconds(entry.get(DURATION), DURATION) or None
    return [Item(resolved(path, folder), offset_s, length_s, manifest=entry)]
