"""One run over an archive: what is missing is inspected, each recording once, and its rows are kept."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from speech_qc.archive.dest import Destination, Known, item_key, version_key
from speech_qc.archive.digests import DigestSet
from speech_qc.archive.items import Item, ItemSource
from speech_qc.archive.names import without_credentials
from speech_qc.archive.rows import Identity
from speech_qc.archive.schema import ITEMS
from speech_qc.archive.storage import etags

FIRST_ITEMS, BATCH_ITEMS = 8, 64
GROW_AFTER = 32
"""Batches after which they have twice as many items, so that a small archive, too, is spread over the workers."""
BATCH_BYTES = 16 << 20
"""A batch ends at its number of items or at this size, so that long recordings are spread over the workers."""
BATCH_PARTS = 1024
"""Neighbouring parts of one recording in a batch, whatever their size: each batch decodes the recording again."""
PART_BYTES_A_SECOND = 100_000
"""Of a part of a recording, whose own size is unknown: samples of 16 bits at 48 kHz."""
STAMPED = 256
"""Files whose versions are looked up at a time; an object store answers these requests at the same time."""


class Engine(AbstractContextManager["Engine"], Protocol):
    """Inspects batches of items, anywhere."""

    identity: Identity

    def run(self, batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """Inspect batches; see `local.LocalEngine.run`."""


@dataclass(slots=True)
class Progress:
    """How far a run is.

    Attributes:
        listed: Items that the sources have named so far.
        done_before: Of these, items that an earlier run has done.
        twice: Of these, items that were named before.
        finished: Items that this run has inspected.
        errors: Of these, items that could not be inspected.
        audio_s: Seconds of audio in this run, each channel counted.
        statuses: Rows of this run by verdict.
        seconds: Time since the first batch was given out.
        is_listed: Whether the sources have named everything.
        old_rows: Rows that were replaced by newer ones.
    """

    listed: int = 0
    done_before: int = 0
    twice: int = 0
    finished: int = 0
    errors: int = 0
    audio_s: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    is_listed: bool = False
    old_rows: int = 0

    @property
    def remaining(self) -> int:
        """Items that were listed and are neither done nor left out."""
        return self.listed - self.done_before - self.twice - self.finished


def run(
    sources: Sequence[ItemSource],
    destination: Destination,
    engine: Engine,
    *,
    keep_old: bool = False,
    retry_errors: bool = False,
    on_progress: Callable[[Progress], object] = lambda _: None,
) -> Progress:
    """Inspect what is missing.

    Args:
        sources: The recordings.
        destination: Where rows are kept.
        engine: What inspects.
        keep_old: Keep the rows of earlier inspections of recordings that are inspected again.
        retry_errors: Inspect again what could not be inspected.
        on_progress: Called after each batch; if it raises, the run ends, and the rows so far are kept.

    Returns:
        What was done.

    Raises:
        ArchiveError: A source, the destination or the engine cannot be used; the rows so far are kept.
    """
    known = destination.known(engine.identity, retry_errors=retry_errors)
    work = _Work(known, engine.identity)
    started_s = time.monotonic()
    try:
        for rows in engine.run(work.batches(sources)):
            destination.add(rows)
            work.count(rows)
            work.progress.seconds = time.monotonic() - started_s
            on_progress(work.progress)
    finally:
        destination.flush()
    if not keep_old and (known.has_old or work.replaces):
        work.progress.old_rows = destination.drop_old()
    work.progress.seconds = time.monotonic() - started_s
    on_progress(work.progress)
    return work.progress


class _Work:
    """The items of a run that need an inspection.

    Args:
        known: What the destination holds.
        identity: Model and profile of this run.
    """

    def __init__(self, known: Known, identity: Identity) -> None:
        self._known, self._identity = known, identity
        self._named = DigestSet()
        self.progress = Progress()
        self.replaces = False
        """Whether an item was inspected that has rows already."""

    def batches(self, sources: Iterable[ItemSource]) -> Iterator[pa.Table]:
        """List the items that are missing, in batches with the columns of `schema.ITEMS`."""
        waiting: list[dict[str, Any]] = []
        waiting_bytes = number = 0
        for item, opener in self._missing(sources):
            size = _size(item)
            most = min(BATCH_ITEMS, FIRST_ITEMS << min(number // GROW_AFTER, 8))
            added = size
            if waiting and waiting[-1]["uri"] == item["uri"]:
                most, added = BATCH_PARTS, 0
            if waiting and (len(waiting) >= most or waiting_bytes + added > BATCH_BYTES):
                yield pa.Table.from_pylist(waiting, schema=ITEMS)
                waiting, waiting_bytes, number, added = [], 0, number + 1, size
            waiting.append(item | {"opener": opener})
            waiting_bytes += added
        if waiting:
            yield pa.Table.from_pylist(waiting, schema=ITEMS)
        self.progress.is_listed = True

    def count(self, rows: pa.Table) -> None:
        """Count the rows of whole items."""
        progress = self.progress
        failed = pc.sum(rows["error"].is_valid()).as_py() or 0
        for status, count in zip(*(pc.value_counts(rows["status"]).field(n).to_pylist() for n in (0, 1)), strict=True):
            if status is not None:
                progress.statuses[status] = progress.statuses.get(status, 0) + count
        progress.errors += failed
        progress.finished += _items_in(rows)
        progress.audio_s += pc.sum(rows["duration_s"]).as_py() or 0.0

    def _missing(self, sources: Iterable[ItemSource]) -> Iterator[tuple[dict[str, Any], str | None]]:
        for source in sources:
            for piece in _pieces(source.items(), STAMPED):
                found = deque(etags([item.uri for item in piece if item.etag is None]))
                for item in piece:
                    etag = found.popleft() if item.etag is None else item.etag
                    if self._is_missing(item, etag):
                        yield _row(item, etag), source.opener

    def _is_missing(self, item: Item, etag: str | None) -> bool:
        key = item_key(item.uri, item.offset_s, item.length_s, item.channel)
        self.progress.listed += 1
        if not self._named.add(key):
            self.progress.twice += 1
            return False
        if version_key(key, etag, self._identity) in self._known.done:
            self.progress.done_before += 1
            return False
        self.replaces = self.replaces or key in self._known.items
        return True


def _items_in(rows: pa.Table) -> int:
    """Count the items of rows, of which those of one item follow each other, with the same time."""
    times = rows["inspected_at"].combine_chunks()
    keys = [rows[name].combine_chunks() for name in ("uri", "offset_s", "length_s", "asked_channel")]
    names = list(zip(*(column.to_pylist() for column in (*keys, times)), strict=True))
    return sum(1 for number, name in enumerate(names) if number == 0 or name != names[number - 1])


def _row(item: Item, etag: str | None) -> dict[str, Any]:
    manifest = _as_json(item.manifest) if item.manifest else None
    if manifest is not None and "://…@" in item.uri:  # the column with the URI has them still
        manifest = without_credentials(manifest)
    return {
        "uri": item.uri,
        "offset_s": item.offset_s,
        "length_s": item.length_s,
        "channel": item.channel,
        "manifest": manifest,
        "etag": etag,
        "problem": item.problem,
    }


def _as_json(columns: Mapping[str, Any]) -> str:
    """Write columns as JSON, whatever is in them: integers of any size, and text that is not Unicode with escapes."""
    try:
        return orjson.dumps(dict(columns)).decode()
    except TypeError:
        return json.dumps(_expressible(columns), ensure_ascii=False, default=str)


def _expressible(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None  # as orjson writes it
    if isinstance(value, Mapping):
        return {_expressible(str(name)): _expressible(one) for name, one in value.items()}
    return [_expressible(one) for one in value] if isinstance(value, list | tuple) else value


def _size(item: Mapping[str, Any]) -> int:
    """Return the bytes of a file, which its etag begins with, or roughly those of the part; 0 if it says nothing."""
    size = (item["etag"] or "").partition("-")[0]
    known = int(size) if size.isdigit() else 0
    return known if item["length_s"] is None else min(known, int(item["length_s"] * PART_BYTES_A_SECOND))


def _pieces(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    piece: list[Item] = []
    for item in items:
        piece.append(item)
        if len(piece) == size:
            yield piece
            piece = []
    if piece:
        yield piece
