"""Lhotse manifests: cuts or recordings as JSON lines (`.jsonl`, `.jsonl.gz`).

Read without Lhotse, so that the workers need not import PyTorch. Cuts whose audio Lhotse would compute (mixed, padded,
or with transforms) or fetch by running a command are refused; `CutSet.save_audios` makes files of them.

Source: Lhotse documentation, "Representing a corpus" and "Cuts".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speech_qc.archive.items import Item
from speech_qc.archive.sources.files import resolved, seconds

SUPERVISION_FIELDS = ("speaker", "gender", "language", "text")
"""Fields of a cut's supervisions that become columns, if all supervisions agree."""


def lhotse_items(entry: dict[str, Any], folder: str) -> list[Item]:
    """Return the parts that a cut or a recording names; each channel that a cut names is inspected.

    Args:
        entry: A line of the manifest.
        folder: Folder of the manifest.

    Raises:
        ValueError: The entry is neither, or Lhotse would compute its audio.
    """
    if "sources" in entry and "sampling_rate" in entry:
        return _parts(entry, None, None, None, {"id": entry.get("id")}, folder)
    if entry.get("type") not in ("MonoCut", "MultiCut", "Cut"):
        raise ValueError(f"expected a MonoCut, a MultiCut or a recording, got {entry.get('type', 'something else')!r}")
    recording = entry.get("recording")
    if not isinstance(recording, dict):
        raise ValueError(f"expected a cut with a recording, got cut {entry.get('id')!r} without one")
    start_s, length_s = seconds(entry.get("start"), "start") or 0.0, seconds(entry.get("duration"), "duration")
    if start_s == 0.0 and length_s == recording.get("duration"):
        return _parts(recording, None, None, entry.get("channel"), _columns(entry), folder)
    return _parts(recording, start_s, length_s, entry.get("channel"), _columns(entry), folder)


def _columns(cut: Mapping[str, Any]) -> dict[str, Any]:
    recording_id = cut["recording"].get("id")
    columns = {"id": cut.get("id"), "recording_id": recording_id, **(cut.get("custom") or {})}
    for name in SUPERVISION_FIELDS:
        values = [one[name] for one in cut.get("supervisions") or () if one.get(name) is not None]
        if values and all(value == values[0] for value in values):
            columns.setdefault(name, values[0])
    return columns


def _parts(
    recording: Mapping[str, Any],
    start_s: float | None,
    length_s: float | None,
    wanted: int | list[int] | None,
    columns: Mapping[str, Any],
    folder: str,
) -> list[Item]:
    """Return an item per file, or per channel where a cut does not have all channels of a file."""
    if recording.get("transforms"):
        raise ValueError(f"expected a recording without transforms, got recording {recording.get('id')!r} with some")
    channels = None if wanted is None else {wanted} if isinstance(wanted, int) else set(wanted)
    items: list[Item] = []
    for source in recording.get("sources") or ():
        if source.get("type") not in ("file", "url"):
            raise ValueError(
                f"expected the file of recording {recording.get('id')!r}, got a source of type {source.get('type')!r}"
            )
        uri = resolved(source["source"], folder)
        held = source.get("channels") or [0]
        chosen = [channel for channel in held if channels is None or channel in channels]
        if len(chosen) == len(held):
            items.append(Item(uri, start_s, length_s, manifest=columns))
        else:  # channels of a recording are numbered across its files, those of an item within its file
            items += [Item(uri, start_s, length_s, held.index(channel), columns) for channel in chosen]
    if not items:
        raise ValueError(f"expected a recording with the cut's channels, got none in recording {recording.get('id')!r}")
    return items
