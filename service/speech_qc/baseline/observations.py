"""Figures of single recordings, with their group and time; an archive is one source of them, live calls another."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from speech_qc.archive.dest import Destination
from speech_qc.archive.exports import recordings
from speech_qc.archive.report.grouping import DATE_COLUMNS, date_in, path_fields
from speech_qc.baseline.measures import FAIL_RATIO, MEASURES

EPOCH_MS_FROM = 1e11
"""Numbers from here on are milliseconds since 1970: as seconds they would be after the year 5000."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One recording.

    Args:
        group: Name of its trunk, device, speaker …
        time: When it was recorded, with a time zone.
        values: By the name of a measure; measures without a value are absent.
    """

    group: str
    time: datetime
    values: Mapping[str, float]


class ObservationSource(Protocol):
    """Provides recordings, in any order."""

    def observations(self) -> Iterator[Observation]:
        """List the recordings.

        Raises:
            ArchiveError: They cannot be read.
        """

    @property
    def left_out(self) -> Mapping[str, int]:
        """Recordings that could not be used so far, by reason."""


class ArchiveObservations:
    """The recordings of an archive.

    Args:
        results: Its results.
        group: Name of a column of the manifest, or of a field of `pattern`.
        time: Likewise, for the time; None to look for it in the columns that `archive report` looks in, then for a date
            in the path. ISO 8601, or seconds or milliseconds since 1970; without a time zone it is UTC.
        pattern: Pattern of paths, as in `{trunk}/{day}/*.wav`; see `archive.report.grouping.path_fields`.

    Raises:
        ArchiveError: The pattern is wrong.
    """

    def __init__(self, results: Destination, group: str, time: str | None = None, pattern: str | None = None) -> None:
        self._results, self._group, self._time = results, group, time
        self._pattern = None if pattern is None else path_fields(pattern)
        self.left_out: dict[str, int] = {}

    def observations(self) -> Iterator[Observation]:
        """List the recordings that were inspected and have a group and a time; the others are counted."""
        for one in recordings(self._results):
            match = None if self._pattern is None else self._pattern.fullmatch(one.uri.partition("?")[0])
            columns = {**one.manifest, **(match.groupdict() if match else {})}
            group, time = columns.get(self._group), self._time_in(columns, one.uri)
            if one.error is not None:
                self._leave_out("could not be inspected")
            elif group is None or group == "":
                self._leave_out(f"without {self._group}")
            elif time is None:
                has_text = self._time is not None and columns.get(self._time) is not None
                self._leave_out(f"whose {self._time} is no time" if has_text else f"without {self._time or 'a time'}")
            else:
                yield Observation(str(group), time, values_of(one.columns()))

    def _time_in(self, columns: Mapping[str, Any], uri: str) -> datetime | None:
        if self._time is not None:
            return time_of(columns.get(self._time))
        found = next(filter(None, (time_of(columns.get(name)) for name in DATE_COLUMNS)), None)
        if found is not None:
            return found
        day = date_in(uri)
        return None if day is None else datetime.combine(day, datetime.min.time(), UTC)

    def _leave_out(self, reason: str) -> None:
        self.left_out[reason] = self.left_out.get(reason, 0) + 1


def values_of(columns: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a recording that are compared, from the columns of `speech_qc.columns`."""
    found: dict[str, float] = {}
    if columns["qc_status"] != "unknown":  # no speech, or too little: neither good nor bad
        found[FAIL_RATIO] = float(columns["qc_status"] == "fail")
    for measure in MEASURES:
        value = columns.get(f"qc_{measure.name}")
        if value is not None:
            found[measure.name] = float(value)
    return found


def time_of(value: Any) -> datetime | None:
    """Read a time; None if it is none.

    Args:
        value: ISO 8601 as text, also without separators (`20260102T0304`); or a number of seconds or milliseconds.
    """
    try:
        if isinstance(value, str):
            text = value.strip()
            if re.fullmatch(r"\d{9,10}(\.\d+)?|\d{13}", text):
                return time_of(float(text))
            found = datetime.fromisoformat(text)
            return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value / 1000 if abs(value) >= EPOCH_MS_FROM else value, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return None
