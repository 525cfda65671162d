"""The results of a server: what its calls publish, kept for requests, watchers and webhooks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeVar

import orjson
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from speech_qc.call_store import queries, records
from speech_qc.call_store.database import Database
from speech_qc.call_store.records import Limits, Subscription
from speech_qc.call_store.watch import Filter, Stored, Watchers
from speech_qc.call_store.writer import Writer, describe
from speech_qc.calls.events import CallEvent
from speech_qc.errors import ResultsUnavailable
from speech_qc.settings import Settings
from speech_qc.telemetry.metrics import Metrics
from speech_qc.wire.vocabulary import CallState, ResultsScope

logger = logging.getLogger(__name__)

T = TypeVar("T")

READERS = 2
"""Threads for requests; the default ones may all be busy with uploads."""
START_S = 3.0
"""Longest wait for the database when the server starts; it then starts without, and goes on trying."""


class Results:
    """Takes the events of calls and answers questions about them; a `CallSink`.

    Args:
        settings: What is kept, and where.
        subscription: Which events are put into the outbox for webhooks.
        metrics: Counts.
        private_file: SQLite file that all workers of one server share if the settings name no database.

    Raises:
        SettingsError: The database's URL cannot be used.
    """

    def __init__(
        self, settings: Settings, subscription: Subscription, metrics: Metrics, private_file: Path | None = None
    ) -> None:
        self._rebuild: Callable[[], Results] = lambda: Results(settings, subscription, metrics, private_file)
        self.database = Database.of(settings, private_file)
        self._metrics = metrics
        limits = Limits(settings.results_keep_s, settings.results_max_calls, settings.results_max_events)
        self.watchers = Watchers(self._events_after, self._bounds, settings.max_watchers)
        self._on_deliveries: list[Callable[[], None]] = []
        self._writer = Writer(
            self.database, subscription, limits, settings.results_max_waiting, metrics, self._tell_stored
        )
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="call-reader")
        self.started = False
        metrics.results_waiting.set_function(lambda: self._writer.waiting)
        metrics.results_connected.set_function(lambda: self._writer.is_connected)
        metrics.watchers.set_function(lambda: self.watchers.count)

    @property
    def scope(self) -> ResultsScope:
        """Whose calls the answers list."""
        return self.database.scope

    def renewed(self) -> Results:
        """Return results of the same settings that have not been started."""
        return self._rebuild()

    def on_deliveries(self, call: Callable[[], None]) -> None:
        """Call this, in another thread, whenever events were stored that become webhooks."""
        self._on_deliveries.append(call)

    def publish(self, event: CallEvent) -> None:
        """Take an event; never waits and never raises, whatever state the database is in."""
        self._metrics.on_call_event(event.kind, event.vendor, event.data.get("label"))
        self._writer.publish(event)

    def start(self) -> None:
        """Start to store events."""
        self.started = True
        self._writer.start()

    async def wait_prepared(self) -> None:
        """Wait until the tables exist, but not long: a database that does not answer must not prevent the start."""
        await asyncio.to_thread(self._writer.prepared.wait, START_S)

    async def end_watching(self) -> None:
        """End all watches, after the last events of the calls that the shutdown has ended."""
        for _ in range(20 if self.watchers.count else 0):
            await asyncio.sleep(0.05)
            if not self._writer.waiting:
                break
        self.watchers.close()

    def finish(self, timeout_s: float) -> None:
        """Store what is waiting, for at most this time, and take no more events; blocks."""
        if self.started:
            self._writer.close(timeout_s)

    def close(self) -> None:
        """Close the database; nothing else may use it any more."""
        self._readers.shutdown(wait=False, cancel_futures=True)
        self.database.close()

    async def calls(
        self,
        *,
        call: str | None = None,
        state: CallState | None,
        trunk: str | None,
        before: int | None,
        limit: int,
    ) -> tuple[list[dict[str, Any]], int | None]:
        """Return call documents, the newest first, and the number from which to continue; None at the end.

        Raises:
            ResultsUnavailable: The database does not answer.
        """
        rows = await self._reading(
            lambda connection: queries.list_calls(
                connection, call=call, state=state, trunk=trunk, before=before, limit=limit
            )
        )
        following = rows[-1].number if len(rows) == limit else None
        return [orjson.loads(row.document) for row in rows], following

    async def call(self, call_id: str) -> dict[str, Any] | None:
        """Return the newest document of one call; None if there is none. Raises ResultsUnavailable, as `calls`."""
        found = await self._reading(lambda connection: queries.read_call(connection, call_id))
        return None if found is None else dict(found)

    async def remove(self, call_id: str) -> bool:
        """Delete all documents of a call with all that is stored of it; return whether there was one.

        What a live call still says is not stored any more. Raises ResultsUnavailable, as `calls`.
        """

        def work() -> bool:
            with self.database.writing() as connection:
                return records.remove_call(connection, call_id)

        found = await self._run(work)
        self.watchers.forget(call_id)
        return found

    def watch(self, wanted: Filter, after: int | None) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Watch events; see `Watchers.open`."""
        return self.watchers.open(wanted, after)

    def _tell_stored(self, delivers: bool) -> None:
        self.watchers.wake()
        for call in self._on_deliveries if delivers else ():
            call()

    async def _events_after(self, after: int, limit: int, wanted: Filter) -> Sequence[Stored]:
        rows = await self._reading(
            lambda connection: queries.events_after(connection, after, limit, wanted.call, wanted.trunk)
        )
        return [Stored(row.seq, row.call_id, row.trunk, row.kind, row.body) for row in rows]

    async def _bounds(self) -> tuple[int, int]:
        return await self._reading(queries.bounds_of_events)

    async def _reading(self, read: Callable[[Connection], T]) -> T:
        def work() -> T:
            with self.database.reading() as connection:
                return read(connection)

        return await self._run(work)

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, work)
        except SQLAlchemyError as error:
            logger.warning("a request about calls could not be answered: %s", describe(error))
            retry_after_s = ResultsUnavailable.retry_after_s
            raise ResultsUnavailable(
                f"expected the database of the calls to answer, it does not: try again in {retry_after_s} s; streams "
                "and uploads go on",
                retry_after_s=retry_after_s,
            ) from None
        except RuntimeError as error:  # the readers have been shut down
            raise ResultsUnavailable("the server stops: ask another one") from error
