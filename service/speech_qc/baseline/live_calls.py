"""The ended calls of a results database as recordings: the normal ranges of live trunks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from speech_qc.archive.items import ArchiveError
from speech_qc.baseline.observations import Observation, time_of, values_of
from speech_qc.call_store.database import Database, parse_url
from speech_qc.call_store.queries import ended_documents
from speech_qc.columns import flat_columns
from speech_qc.errors import SettingsError

GROUPS = ("trunk", "vendor", "role")
"""What calls can be grouped by; `role` is the name of a leg, such as `agent`."""
SCHEMES = ("sqlite:", "postgresql:", "postgresql+psycopg:", "postgres:")


def is_database(results: str) -> bool:
    """Whether results are named by the URL of a database."""
    return results.startswith(SCHEMES)


class CallObservations:
    """The ended calls of a results database; a call counts with its worst leg, by role with each leg.

    Args:
        url: As `SPEECHQC_RESULTS_URL`.
        group: One of `GROUPS`.

    Raises:
        ArchiveError: The URL is not one of a database, or calls have no such group.
    """

    def __init__(self, url: str, group: str) -> None:
        if group not in GROUPS:
            raise ArchiveError(f"--by: expected {', '.join(GROUPS)} for calls, got {group!r}: choose one of them")
        try:
            parsed = parse_url(url)
        except SettingsError as error:
            raise ArchiveError(str(error)) from error
        if parsed.drivername == "sqlite" and not Path(parsed.database or "").is_file():
            raise ArchiveError(
                f"{parsed.database}: expected a database that a server has filled, there is no such file"
            )
        self._database = Database(parsed, private=False)
        self._group = group
        self.left_out: dict[str, int] = {}

    def observations(self) -> Iterator[Observation]:
        """List the calls that have a group, a time and a leg with results; the others are counted.

        Raises:
            ArchiveError: The database cannot be read.
        """
        try:
            with self._database.reading() as connection:
                for document in ended_documents(connection):
                    yield from self._of(document)
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            reason = " ".join(str(cause).split())[:200]
            raise ArchiveError(
                f"expected a results database that a server has filled, it cannot be read ({type(cause).__name__}: "
                f"{reason}): check SPEECHQC_RESULTS_URL of the server"
            ) from error
        finally:
            self._database.close()

    def _of(self, document: Mapping[str, Any]) -> Iterator[Observation]:
        time = time_of(document.get("started_at"))
        legs = [leg for leg in document.get("legs") or () if leg.get("verdict") and leg.get("summary")]
        if time is None:
            self._leave_out("without a time")
        elif not legs:
            self._leave_out("without results")
        elif self._group == "role":
            for leg in legs:
                yield Observation(str(leg.get("role")), time, _values([leg]))
        elif not document.get(self._group):
            self._leave_out(f"without {self._group}")
        else:
            yield Observation(str(document[self._group]), time, _values(legs))

    def _leave_out(self, reason: str) -> None:
        self.left_out[reason] = self.left_out.get(reason, 0) + 1


def _values(legs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    channels = [{"levels": None, "events": None, **leg, "channel": place} for place, leg in enumerate(legs)]
    return values_of(flat_columns(channels, model=None, profile=None))
