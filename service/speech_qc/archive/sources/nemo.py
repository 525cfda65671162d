"""NeMo manifests: a JSON object per line with `audio_filepath`, and optionally `offset` and `duration`.

Source: NVIDIA, NeMo user guide, "ASR datasets: Preparing custom ASR data". Manifests of tarred data sets, which have
`shard_id`, are not supported.
"""

from __future__ import annotations

from typing import Any

from speech_qc.archive.items import Item
from speech_qc.archive.sources.files import resolved, seconds

PATH, OFFSET, DURATION = "audio_filepath", "offset", "duration"


def nemo_items(entry: dict[str, Any], folder: str) -> list[Item]:
    """Return the part that NeMo loads: `duration` seconds from `offset`.

    Without `offset`, it begins at the start; without `duration`, or with 0, it ends with the recording.

    Args:
        entry: A line of the manifest.
        folder: Folder of the manifest.

    Raises:
        ValueError: The entry names no recording, or is one of a tarred data set.
    """
    if "shard_id" in entry:
        raise ValueError("expected the path of a recording, got an entry of a tarred data set (shard_id)")
    path = entry.get(PATH)
    if not isinstance(path, str) or not path:
        raise ValueError(f"expected {PATH} with the path of a recording, got {path!r}")
    offset_s = seconds(entry.get(OFFSET), OFFSET)
    length_s = seconds(entry.get(DURATION), DURATION) or None
    return [Item(resolved(path, folder), offset_s, length_s, manifest=entry)]
