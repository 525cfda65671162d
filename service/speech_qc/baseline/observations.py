"""Figures of single recordings, with their group and time; an archive is one source of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from speech_qc.archive.dest import Destination
from speech_qc.archive.exports import Recording, recordings
from speech_qc.archive.items import ArchiveError
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
    r"""The recordings of an archive.

    Args:
        results: Its results.
        group: Name of a column of the manifest, or of a named group of `pattern`.
        time: Likewise, for the time: ISO 8601, or seconds or milliseconds since 1970. Without a time zone it is UTC.
        pattern: Expression that is searched for in the name of each recording; its named groups act as columns, as in
            `calls/(?P<trunk>[^/]+)/(?P<day>\d{4}-\d\d-\d\d)`.

    Raises:
        ArchiveError: The pattern is not a regular expression.
    """

    def __init__(self, results: Destination, group: str, time: str, pattern: str | None = None) -> None:
        self._results, self._group, self._time = results, group, time
        try:
            self._pattern = None if pattern is None else re.compile(pattern)
        except re.error as error:
            raise ArchiveError(f"--pattern: expected a regular expression, got {pattern!r}: {error}") from error
        self.left_out: dict[str, int] = {}

    def observations(self) -> Iterator[Observation]:
        """List the recordings that were inspected and have a group and a time; the others are counted."""
        for one in recordings(self._results):
            columns = self._columns(one)
            group, time = columns.get(self._group), time_of(columns.get(self._time))
            if one.error is not None:
                self._leave_out("could not be inspected")
            elif group is None or group == "":
                self._leave_out(f"no {self._group}")
            elif time is None:
                self._leave_out(f"no {self._time}" if columns.get(self._time) is None else f"{self._time} is no time")
            else:
                yield Observation(str(group), time, values_of(one))

    def _columns(self, one: Recording) -> dict[str, Any]:
        match = None if self._pattern is None else self._pattern.search(one.uri)
        return {**one.manifest, **(match.groupdict() if match else {})}

    def _leave_out(self, reason: str) -> None:
        self.left_out[reason] = self.left_out.get(reason, 0) + 1


def values_of(one: Recording) -> dict[str, float]:
    """Return the figures of a recording, those of its worst channel."""
    columns = one.columns()
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
