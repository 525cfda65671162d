"""What is written to the tables, kept and deleted; every function works within the transaction of its connection."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from sqlalchemy import Column, Connection, delete, func, insert, select, update

from speech_qc.call_store.schema import calls, deliveries, events, removed, writers
from speech_qc.call_store.wall_clock import now_s
from speech_qc.calls.events import CallEvent
from speech_qc.wire.vocabulary import CallState

STARTED: Final = "call.started"
ENDED: Final = "call.ended"
SCORES: Final = "scores"
LOST: Final = "the process that scored this leg has exited"
WRITERS_S: Final = 86_400.0
"""How long a process that is gone is remembered."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An event, ready to be stored.

    Attributes:
        event: The event.
        at_s: When it happened, seconds since 1970.
        document: The call document as JSON if the event brings one, else empty.
        body: The event as it is sent, JSON.
        event_id: Of all events; made once, so that an event whose storing seemed to fail is not stored twice.
    """

    event: CallEvent
    at_s: float
    document: str
    body: str
    event_id: str

    @classmethod
    def of(cls, event: CallEvent) -> Entry:
        """Encode an event.

        Raises:
            TypeError: Its data is not JSON, or it contains text that is not valid Unicode.
            ValueError: A text that the database searches contains a NUL, or a time has no time zone.
        """
        for text in (event.call_id, event.trunk or "", event.vendor):
            if "\0" in text:
                raise ValueError(f"expected text without NUL, got {text!r}")
            text.encode()
        if event.at.tzinfo is None:
            raise ValueError(f"expected a time with its time zone, got {event.at.isoformat()}")
        whole = event.kind in (STARTED, ENDED)
        data = {"call_id": event.call_id, "document_id": event.document_id, "vendor": event.vendor,
                "trunk": event.trunk} | dict(event.data)  # fmt: skip
        moment = event.at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        body = orjson.dumps({"type": event.kind, "timestamp": moment, "data": data}, option=_NUMPY).decode()
        kept = data if whole else event.document
        document = "" if kept is None else orjson.dumps(kept, option=_NUMPY).decode()
        return cls(event, event.at.timestamp(), document, body, uuid.uuid4().hex)


_NUMPY = orjson.OPT_SERIALIZE_NUMPY


@dataclass(frozen=True, slots=True)
class Subscription:
    """Which events go to which receivers of webhooks.

    Attributes:
        urls: Receivers.
        kinds: Kinds of events.
    """

    urls: tuple[str, ...] = ()
    kinds: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is kept.

    Attributes:
        keep_s: Seconds for which an ended call is kept.
        max_calls: Maximum calls.
        max_events: Maximum events, and maximum deliveries.
        scores_s: Seconds for which `scores` are kept: only for watchers that lost their connection.
        lost_s: Seconds without a sign of life after which the process that had a live call must have died.
    """

    keep_s: float
    max_calls: int
    max_events: int
    scores_s: float = 60.0
    lost_s: float = 30.0


def store(
    connection: Connection, entries: Sequence[Entry], subscription: Subscription, owner: str | None = None
) -> bool:
    """Store events, what they change in their calls, and their deliveries; return whether there are deliveries.

    What is stored already is left out: the database may have committed a transaction whose answer was lost. That is
    certain because such transactions run one at a time.

    Args:
        connection: A transaction.
        entries: The events, in order.
        subscription: Which of them become deliveries.
        owner: The process that has the calls.
    """
    identities = [entry.event_id for entry in entries]
    known = set(connection.scalars(select(events.c.event_id).where(events.c.event_id.in_(identities))))
    documents = {entry.event.document_id for entry in entries}
    gone = set(connection.scalars(select(removed.c.document_id).where(removed.c.document_id.in_(documents))))
    new = [entry for entry in entries if entry.event_id not in known and entry.event.document_id not in gone]
    if not new:
        return False
    _update_calls(connection, new, owner)
    connection.execute(insert(events), [_event_row(entry) for entry in new])
    rows = [
        _delivery_row(entry, url) for entry in new for url in subscription.urls
        if entry.event.kind in subscription.kinds
    ]  # fmt: skip
    if rows:
        connection.execute(insert(deliveries), rows)
    return bool(rows)


def _update_calls(connection: Connection, entries: Sequence[Entry], owner: str | None) -> None:
    """Apply events to the documents that they belong to, in order."""
    touched, latest_s = set(), 0.0
    for entry in entries:
        identity = entry.event.document_id
        if entry.event.kind in (STARTED, ENDED):
            _put_document(connection, entry, "live" if entry.event.kind == STARTED else "ended", owner)
            continue
        touched.add(identity)
        latest_s = max(latest_s, entry.at_s)
        if entry.document:
            live = (calls.c.document_id == identity) & (calls.c.state == "live")
            connection.execute(update(calls).where(live).values(document=entry.document))
    if touched:  # one statement for all: that a call is still alive need not be exact to the second
        heard = calls.c.document_id.in_(touched)
        connection.execute(update(calls).where(heard, calls.c.updated_s < latest_s).values(updated_s=latest_s))


def _put_document(connection: Connection, entry: Entry, state: CallState, owner: str | None) -> None:
    event = entry.event
    values = {"vendor": event.vendor, "trunk": event.trunk, "state": state, "updated_s": entry.at_s,
              "document": entry.document}  # fmt: skip
    same = calls.c.document_id == event.document_id
    if not connection.execute(update(calls).where(same).values(values)).rowcount:
        new = values | {"document_id": event.document_id, "call_id": event.call_id, "owner": owner}
        connection.execute(insert(calls).values(new))


def _event_row(entry: Entry) -> dict[str, Any]:
    event = entry.event
    return {"event_id": entry.event_id, "document_id": event.document_id, "call_id": event.call_id,
            "trunk": event.trunk, "kind": event.kind, "at_s": entry.at_s, "body": entry.body}  # fmt: skip


def _delivery_row(entry: Entry, url: str) -> dict[str, Any]:
    now = now_s()
    digest = hashlib.sha256(f"{entry.event_id} {url}".encode()).hexdigest()
    return {
        "target": url, "call_id": entry.event.call_id, "message_id": f"msg_{digest[:32]}", "body": entry.body,
        "created_s": now, "due_s": now, "claimed_until_s": 0.0, "attempts": 0,
    }  # fmt: skip


def show_alive(connection: Connection, owner: str) -> None:
    """Note that a process is there."""
    here = {"alive_s": now_s()}
    if not connection.execute(update(writers).where(writers.c.owner == owner).values(here)).rowcount:
        connection.execute(insert(writers).values(owner=owner, **here))


def lost_calls(connection: Connection, limits: Limits) -> list[Entry]:
    """Return a `call.ended` for each live call whose process must have died: neither has been heard of for `lost_s`."""
    oldest_s = now_s() - limits.lost_s
    alive = select(writers.c.owner).where(writers.c.alive_s >= oldest_s, writers.c.owner == calls.c.owner).exists()
    silent = select(calls).where(calls.c.state == "live", calls.c.updated_s < oldest_s, ~alive).limit(100)
    found = []
    for row in connection.execute(silent):
        at = datetime.fromtimestamp(row.updated_s, UTC)
        data = _cut_off(orjson.loads(row.document), at.isoformat())
        event = CallEvent(ENDED, row.call_id, row.vendor, row.trunk, at, data, document_id=row.document_id)
        found.append(Entry.of(event))
    return found


def _cut_off(document: dict[str, Any], at: str) -> dict[str, Any]:
    """Return the document of a live call as that of one whose process has died."""
    unknown = dict(document.get("unknown", {}))
    for place, leg in enumerate(document.get("legs", [])):
        if leg.get("ended_at") is None:
            leg["ended_at"] = at
            unknown[f"legs.{place}"] = LOST
    return document | {"state": "ended", "ended_at": at, "lost": True, "unknown": unknown}


def prune(connection: Connection, limits: Limits) -> int:
    """Delete what need not be kept any longer.

    Returns:
        Deliveries that were abandoned, because their time was over or there were too many.
    """
    now = now_s()
    old = select(calls.c.document_id).where(calls.c.updated_s < now - limits.keep_s)
    _forget(connection, connection.scalars(old))
    too_many = (connection.scalar(select(func.count()).select_from(calls)) or 0) - limits.max_calls
    if too_many > 0:
        ended = select(calls.c.document_id).where(calls.c.state == "ended").order_by(calls.c.updated_s).limit(too_many)
        _forget(connection, connection.scalars(ended))
    connection.execute(delete(events).where(events.c.kind == SCORES, events.c.at_s < now - limits.scores_s))
    connection.execute(delete(events).where(events.c.at_s < now - limits.keep_s))
    _keep_newest(connection, events.c.seq, limits.max_events)
    connection.execute(delete(removed).where(removed.c.at_s < now - limits.keep_s))
    connection.execute(delete(writers).where(writers.c.alive_s < now - WRITERS_S))
    abandoned = connection.execute(delete(deliveries).where(deliveries.c.created_s < now - limits.keep_s)).rowcount
    return abandoned + _keep_newest(connection, deliveries.c.number, limits.max_events)


def _keep_newest(connection: Connection, number: Column[int], most: int) -> int:
    """Delete the oldest rows beyond a maximum; return how many."""
    table = number.table
    excess = (connection.scalar(select(func.count()).select_from(table)) or 0) - most
    if excess <= 0:
        return 0
    last = select(number).order_by(number).offset(excess - 1).limit(1).scalar_subquery()
    return connection.execute(delete(table).where(number <= last)).rowcount


def _forget(connection: Connection, documents: Iterable[str]) -> None:
    """Delete documents with their events; their deliveries stay until they are delivered."""
    found = list(documents)
    for start in range(0, len(found), 500):
        some = found[start : start + 500]
        connection.execute(delete(events).where(events.c.document_id.in_(some)))
        connection.execute(delete(calls).where(calls.c.document_id.in_(some)))


def remove_call(connection: Connection, call_id: str) -> bool:
    """Delete all documents of a call, its events and its deliveries, and ignore what they may still publish.

    Returns:
        Whether there was anything.
    """
    documents = set(connection.scalars(select(calls.c.document_id).where(calls.c.call_id == call_id)))
    known = select(events.c.document_id).where(events.c.call_id == call_id, events.c.document_id.is_not(None))
    documents |= set(connection.scalars(known.distinct()))
    found = connection.execute(delete(calls).where(calls.c.call_id == call_id)).rowcount
    found += connection.execute(delete(events).where(events.c.call_id == call_id)).rowcount
    found += connection.execute(delete(deliveries).where(deliveries.c.call_id == call_id)).rowcount
    if documents:
        connection.execute(insert(removed), [{"document_id": one, "at_s": now_s()} for one in documents])
    return bool(found)
