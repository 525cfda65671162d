"""Finds out what a data set is: by its name, and for manifests by their first line."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from types import MappingProxyType

import orjson

from speech_qc.archive.dest import PART
from speech_qc.archive.items import ArchiveError, ItemSource
from speech_qc.archive.names import is_remote, local_path, name_of
from speech_qc.archive.sources.files import JsonManifest, ends_with, json_lines
from speech_qc.archive.sources.kaldi import KaldiData
from speech_qc.archive.sources.lhotse import lhotse_items
from speech_qc.archive.sources.nemo import nemo_items
from speech_qc.archive.sources.recordings import StoredFiles, find_sources
from speech_qc.archive.sources.webdataset import TarShards
from speech_qc.audio.extensions import looks_like_recording
from speech_qc.audio.folders import files_in

MANIFESTS = (".jsonl", ".jsonl.gz", ".json", ".json.gz")
TABLES = (".parquet", ".pq", ".arrow")
SHARDS = (".tar",)
STATE = "state.json"


def archive_sources(names: Sequence[str], *, column: str = "audio", out: str | None = None) -> list[ItemSource]:
    """Choose the source for each argument of the command: data sets, recordings, folders, lists.

    Args:
        names: Arguments.
        column: Name of the audio column of tables.
        out: Where the results are, which may be in a folder of recordings or data sets.

    Raises:
        ArchiveError: One does not exist, or is a data set that cannot be read.
    """
    found: list[ItemSource] = []
    for name in map(local_path, names):
        source = dataset_source(name, column=column, out=out)
        found += find_sources([name]) if source is None else [source]
    return found


def dataset_source(name: str, *, column: str = "audio", out: str | None = None) -> ItemSource | None:
    """Return the source for a data set.

    Args:
        name: A manifest (`.jsonl`, `.jsonl.gz`), a table (`.parquet`, `.arrow`), a shard (`.tar`), a `wav.scp`; a
            folder with tables, with shards or with a `wav.scp` in it; or a pattern such as `shards/*.tar`.
        column: Name of the audio column of tables.
        out: Where the results are.

    Returns:
        The source; None if this is no data set, but perhaps a recording or a folder of recordings.

    Raises:
        ArchiveError: It is a data set that cannot be read.
    """
    if ends_with(name, ".scp") or os.path.isfile(os.path.join(name, "wav.scp")):
        return KaldiData(name)
    if ends_with(name, MANIFESTS):
        return _manifest(name)
    for extensions, make in _CONTAINERS.items():
        if paths := _files(name, extensions, out):
            return make(paths, column)
    if name.endswith((".tar.gz", ".tgz", ".tar.zst")):
        raise ArchiveError(f"expected a shard that is not compressed (.tar), got {name}: unpack it with gunzip or such")
    return None


def _files(name: str, extensions: tuple[str, ...], out: str | None) -> list[str]:
    """Return the containers that a name stands for; none, if there are also other recordings to inspect."""
    if is_remote(name):
        if not ends_with(name, extensions):
            return []
        return [item.uri for item in StoredFiles(name).items()]
    if name.endswith(extensions):
        paths = [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True))
        if not paths:
            raise ArchiveError(f"expected data sets, no file matches {name}")
        return [name_of(path) for path in paths]
    if not os.path.isdir(name):
        return []
    found: list[str] = []
    problems: list[OSError] = []
    for folder, entries in groupby(files_in(Path(os.path.abspath(name)), problems.append), lambda path: path.parent):
        files = [path.name for path in entries if not _is_result(path, out)]
        if any(not file.endswith((*TABLES, *SHARDS)) and looks_like_recording(folder / file) for file in files):
            return []
        chosen = [file for file in files if file.endswith(extensions)]
        if STATE in files:  # of `save_to_disk`; the folder may hold other files, in which `map` cached its results
            listed = orjson.loads((folder / STATE).read_bytes()).get("_data_files", ())
            chosen = [entry["filename"] for entry in listed]
        found += [name_of(file, str(folder)) for file in chosen]
    if found and problems:
        raise ArchiveError(f"{name}: expected a folder that can be listed: {problems[0]}: change its permissions")
    return found


def _is_result(path: Path, out: str | None) -> bool:
    """Whether a file belongs to the results: their rows, or a report on them."""
    if out is None or is_remote(out) or not path.name.endswith(TABLES):
        return False
    inside = os.path.relpath(os.path.realpath(path), os.path.realpath(local_path(out)))
    return inside.startswith("_") or ("/" not in inside and inside.startswith(PART))


def _manifest(path: str) -> ItemSource:
    """Tell NeMo's and Lhotse's manifests apart by the first line."""
    for number, entry in json_lines(path):
        if isinstance(entry, ValueError):
            raise ArchiveError(f"{path}: line {number}: {entry}: a manifest has a JSON object in each line")
        if isinstance(entry, dict) and "audio_filepath" in entry:
            return JsonManifest(path, nemo_items)
        if isinstance(entry, dict) and ("recording" in entry or "sources" in entry or "tracks" in entry):
            return JsonManifest(path, lhotse_items)
        raise ArchiveError(
            f"{path}: expected a manifest of NeMo (audio_filepath) or Lhotse (recording, sources), its first line has "
            f"{', '.join(entry) if isinstance(entry, dict) else type(entry).__name__}"
        )
    raise ArchiveError(f"{path}: expected recordings, got an empty manifest")


def _tables(paths: list[str], column: str) -> ItemSource:
    from speech_qc.archive.sources.parquet import TableSource

    return TableSource(paths, column)


def _shards(paths: list[str], column: str) -> ItemSource:  # noqa: ARG001 - shards have no columns
    return TarShards(paths)


_CONTAINERS: Mapping[tuple[str, ...], Callable[[list[str], str], ItemSource]] = MappingProxyType(
    {TABLES: _tables, SHARDS: _shards}
)
