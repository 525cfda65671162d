"""Names of groups, and dates, from a manifest's columns and from paths."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from typing import Any

import orjson
import pyarrow as pa

from speech_qc.archive.items import ArchiveError

DATE_COLUMNS = ("date", "recorded_at", "started_at", "created_at", "timestamp", "datetime")
"""Columns of a manifest in which a date is looked for."""
_DATE = re.compile(
    r"(?<!\d)((?:19|20)\d\d)([-_.]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])(?:(?!\d)|(?=\d{4}(?:\d\d)?(?!\d)))"
)
_FIELD = re.compile(r"\{(\w+)\}|(\*\*)|(\*)")


def manifests_of(rows: pa.Table) -> list[dict[str, Any]]:
    """Parse the manifest of each row; an empty dict for a row without one."""
    return [orjson.loads(text) if text else {} for text in rows["manifest"].to_pylist()]


def path_fields(pattern: str) -> re.Pattern[str]:
    """Compile a pattern of paths such as `{trunk}/{agent}-*.wav`.

    Args:
        pattern: A field in braces matches within a name, `*` also, `**` across folders. It is compared with the end of
            the path, at the boundary of a name.

    Raises:
        ArchiveError: It has no field, or one twice.
    """
    names = [match[1] for match in _FIELD.finditer(pattern) if match[1]]
    if not names or len(set(names)) < len(names):
        raise ArchiveError(f"pattern {pattern!r}: expected fields in braces, each once, as in {{trunk}}/{{agent}}.wav")
    parts, end = [], 0
    for match in _FIELD.finditer(pattern):
        parts.append(re.escape(pattern[end : match.start()]))
        name = match[1]
        parts.append(f"(?P<{name}>[^/]+?)" if name else ".*" if match[2] else "[^/]*")
        end = match.end()
    parts.append(re.escape(pattern[end:]))
    try:
        return re.compile("(?:^|.*/)" + "".join(parts))
    except re.error as error:
        raise ArchiveError(f"pattern {pattern!r}: {error}") from error


def group_names(
    rows: pa.Table, manifests: Sequence[dict[str, Any]], columns: Sequence[str], pattern: str | None
) -> dict[str, list[str | None]]:
    """Find the group of each row, for each way of grouping.

    Args:
        rows: As from `read_rows`.
        manifests: The parsed manifest of each row.
        columns: Columns of the manifest, or of the rows (`sample_rate_hz`, `encoding`).
        pattern: Pattern of paths, or None.

    Returns:
        By column or field: a name for each row, None if it has none.

    Raises:
        ArchiveError: No row has one of the columns, no path matches the pattern, or the pattern is wrong.
    """
    found: dict[str, list[str | None]] = {}
    for column in columns:
        if column in ("sample_rate_hz", "encoding", "profile"):
            values: Sequence[Any] = rows[column].to_pylist()
        else:
            values = [manifest.get(column) for manifest in manifests]
        found[column] = [None if value is None else str(value) for value in values]
        if manifests and not any(value is not None for value in values):
            known = sorted({name for manifest in manifests[:1000] for name in manifest})
            raise ArchiveError(
                f"--by {column}: no manifest has this column; expected sample_rate_hz, encoding, or one of: "
                f"{', '.join(known) or 'none, since the recordings came without a manifest'}"
            )
    if pattern is not None:
        compiled = path_fields(pattern)
        matches = [compiled.fullmatch(uri.partition("?")[0]) for uri in rows["uri"].to_pylist()]
        if matches and not any(matches):
            raise ArchiveError(f"--by-path {pattern}: no path ends like this, for example {rows['uri'][0].as_py()}")
        for name in compiled.groupindex:
            found[name] = [match and match[name] for match in matches]
    return found


def dates_of(
    rows: pa.Table, manifests: Sequence[dict[str, Any]], groups: dict[str, list[str | None]], column: str | None
) -> list[date | None]:
    """Find the date of each row: in a column, in a field of the pattern, or in the path.

    Args:
        rows: As from `read_rows`.
        manifests: The parsed manifest of each row.
        groups: As from `group_names`.
        column: Column or field to take it from; None to look for it.
    """
    if column is not None and column in groups:
        return [date_in(text) for text in groups[column]]
    if column is not None:
        return [date_in(manifest.get(column)) for manifest in manifests]
    found = []
    for uri, manifest in zip(rows["uri"].to_pylist(), manifests, strict=True):
        texts = [manifest.get(name) for name in DATE_COLUMNS]
        found.append(next(filter(None, map(date_in, [*texts, uri])), None))
    return found


def date_in(text: Any) -> date | None:
    """Find a date such as 2026-03-01 or 20260301 in a text, the last one; None if there is none."""
    if not isinstance(text, str):
        return None
    matches = list(_DATE.finditer(text))
    for match in reversed(matches):
        try:
            return date(int(match[1]), int(match[3]), int(match[4]))
        except ValueError:  # such as the 31st of February
            continue
    return None
