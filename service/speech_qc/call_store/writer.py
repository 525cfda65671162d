"""The thread between what calls publish and the database: events wait in memory while the database does not answer."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable

from sqlalchemy.exc import DataError, IntegrityError, OperationalError, SQLAlchemyError

from speech_qc.call_store.database import Database
from speech_qc.call_store.records import SCORES, Entry, Limits, Subscription, lost_calls, prune, show_alive, store
from speech_qc.calls.events import CallEvent
from speech_qc.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

MAX_BATCH = 500
"""Maximum events in one transaction."""
LINGER_S = 0.2
"""How long `scores` wait for others, so that a commit serves many calls; other events do not wait."""
PRUNE_S = 10.0
"""Seconds between two looks for what need not be kept."""
ALIVE_S = 5.0
"""Seconds between two signs of life for other processes."""
RETRY_S = 0.5
MAX_RETRY_S = 5.0


class Writer:
    """Writes events to the database, in the order in which they were published.

    Args:
        database: Where to write.
        subscription: Which events become deliveries.
        limits: What is kept.
        max_waiting: Maximum events in memory.
        metrics: Counts what is dropped and abandoned.
        on_stored: Called in the writer's thread after events were stored; its argument says whether some of them
            become webhooks.
    """

    def __init__(
        self,
        database: Database,
        subscription: Subscription,
        limits: Limits,
        max_waiting: int,
        metrics: Metrics,
        on_stored: Callable[[bool], None],
    ) -> None:
        self._database, self._subscription, self._limits = database, subscription, limits
        self._max_waiting, self._metrics, self._on_stored = max_waiting, metrics, on_stored
        self._waiting: deque[CallEvent] = deque()
        self._batch: list[Entry] = []
        self._changed = threading.Condition()
        self._urgent = self._stopping = False
        self._stop_by_s = 0.0
        self.prepared = threading.Event()
        """Set once the tables exist."""
        self._failing = False
        self._prune_every_s = min(PRUNE_S, max(limits.keep_s / 4, 0.1))
        self._pruned_s = self._shown_s = time.monotonic() - PRUNE_S
        self._owner = uuid.uuid4().hex
        self._answers_since_s: float | None = None  # when the database began to answer without a failure
        self._thread = threading.Thread(target=self._run, name="call-store", daemon=True)

    @property
    def waiting(self) -> int:
        """Events in memory that are not in the database yet."""
        return len(self._waiting) + len(self._batch)

    @property
    def is_connected(self) -> bool:
        """Whether the last use of the database succeeded."""
        return self.prepared.is_set() and not self._failing

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def publish(self, event: CallEvent) -> None:
        """Take an event; drop and count it if too many are waiting."""
        room = self._max_waiting // 2 if event.kind == SCORES else self._max_waiting
        with self._changed:
            if self._stopping or self.waiting >= room:
                self._metrics.results_dropped.labels("stopped" if self._stopping else "full").inc()
                return
            self._urgent = self._urgent or event.kind != SCORES
            if self._urgent or not self._waiting:
                self._changed.notify()
            self._waiting.append(event)

    def close(self, timeout_s: float) -> None:
        """Write what is waiting, for as long as that may take, and end the thread."""
        with self._changed:
            self._stopping, self._stop_by_s = True, time.monotonic() + timeout_s
            self._changed.notify()
        self._thread.join(timeout_s + 1)
        if self.waiting:
            logger.error("%d events of calls were not stored before the server stopped", self.waiting)
            self._metrics.results_dropped.labels("stopped").inc(self.waiting)

    def _run(self) -> None:
        retry_s = RETRY_S
        while True:
            try:
                if not self.prepared.is_set():
                    self._database.prepare()
                    self.prepared.set()
                self._write()
                self._show_alive()
                self._prune()
            except Exception as error:  # whatever it is, live streams must not notice, and what is waiting is kept
                self._note_failure(error)
                if not self._pause(retry_s):
                    return
                retry_s = min(2 * retry_s, MAX_RETRY_S)
                continue
            if self._failing:
                logger.info("the database of the calls answers again; %d events are waiting", self.waiting)
            self._failing, retry_s = False, RETRY_S
            self._answers_since_s = self._answers_since_s or time.monotonic()
            if not self._wait():
                return

    def _wait(self) -> bool:
        """Wait for something to write; return False if all is written and the server stops."""
        with self._changed:
            if not self._waiting and not self._stopping:
                self._changed.wait(min(self._prune_every_s, self._alive_every_s))
            if self._waiting and not self._urgent and not self._stopping:
                self._changed.wait(LINGER_S)
            self._urgent = False
            return bool(self._waiting) or not self._stopping

    def _pause(self, seconds: float) -> bool:
        """Wait before the next attempt; return False if the server stops before it."""
        with self._changed:
            if self._stopping:
                seconds = min(seconds, max(0.0, self._stop_by_s - time.monotonic()))
            self._changed.wait_for(lambda: self._stopping and time.monotonic() >= self._stop_by_s, seconds)
            return not self._stopping or time.monotonic() < self._stop_by_s

    def _write(self) -> None:
        """Store all that is waiting.

        A batch that could not be stored is kept, and is the first one at the next attempt.
        """
        while True:
            while self._waiting and len(self._batch) < MAX_BATCH:
                try:
                    entry = Entry.of(self._waiting[0])
                except (TypeError, ValueError) as error:
                    self._drop_invalid(self._waiting[0], error)
                else:
                    self._batch.append(entry)
                self._waiting.popleft()
            if not self._batch:
                return
            try:
                delivers = self._store(self._batch)
            except (DataError, IntegrityError):
                delivers = self._store_singly()
            self._batch = []
            self._on_stored(delivers)

    def _store(self, entries: list[Entry]) -> bool:
        with self._database.writing() as connection:
            return store(connection, entries, self._subscription, self._owner)

    def _store_singly(self) -> bool:
        """Store a batch that contains an event which the database refuses, without that event."""
        delivers = False
        while self._batch:
            entry = self._batch[0]
            try:
                delivers |= self._store([entry])
            except (DataError, IntegrityError) as error:
                self._drop_invalid(entry.event, error)
            self._batch = self._batch[1:]
        return delivers

    def _drop_invalid(self, event: CallEvent, error: Exception) -> None:
        self._metrics.results_dropped.labels("invalid").inc()
        logger.error("an event (%s, %s) could not be stored: %s", event.kind, event.vendor, describe(error))

    @property
    def _alive_every_s(self) -> float:
        return min(ALIVE_S, self._limits.lost_s / 3)

    @property
    def _may_judge(self) -> bool:
        """Whether the database has answered for so long that the other processes have shown that they are alive."""
        since_s = self._answers_since_s
        return since_s is not None and time.monotonic() - since_s >= self._limits.lost_s

    def _show_alive(self) -> None:
        if time.monotonic() - self._shown_s >= self._alive_every_s:
            with self._database.writing(ordered=False) as connection:
                show_alive(connection, self._owner)
            self._shown_s = time.monotonic()

    def _prune(self) -> None:
        if time.monotonic() - self._pruned_s < self._prune_every_s:
            return
        with self._database.writing() as connection:
            lost = lost_calls(connection, self._limits) if self._may_judge else []
            if lost:
                store(connection, lost, self._subscription)
            expired = prune(connection, self._limits)
        self._pruned_s = time.monotonic()
        if lost:
            self._on_stored(True)
            logger.warning("%d live calls were ended: the processes that had them are gone", len(lost))
        if expired:
            self._metrics.webhooks.labels("abandoned").inc(expired)
            logger.error("%d webhooks were abandoned: they could not be delivered in time", expired)

    def _note_failure(self, error: Exception) -> None:
        if not self._failing:
            logger.error("the database of the calls does not answer, events wait in memory: %s", describe(error))
        if not isinstance(error, SQLAlchemyError):
            logger.debug("unexpected error", exc_info=error)
        self._failing, self._answers_since_s = True, None


def describe(error: Exception) -> str:
    """Describe an error in one line, without statements and their values."""
    cause = error.orig if isinstance(error, (OperationalError, DataError, IntegrityError)) else error
    return " ".join(f"{type(cause).__name__}: {cause}".split())[:300]
