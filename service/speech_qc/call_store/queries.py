"""What is read from the tables; every function works within the transaction of its connection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import Connection, func, select

from speech_qc.call_store.schema import calls, events
from speech_qc.wire.vocabulary import CallState

PAGE = 500
"""Documents of calls that are read at once."""


def list_calls(
    connection: Connection,
    *,
    call: str | None = None,
    state: CallState | None,
    trunk: str | None,
    before: int | None,
    limit: int,
) -> Sequence[Any]:
    """Return `number`, `state` and `document` of calls, the newest first.

    Args:
        connection: A transaction.
        call: Only documents of this call.
        state: Only calls in this state.
        trunk: Only calls of this trunk.
        before: Only calls with a smaller number.
        limit: Maximum number of documents.
    """
    wanted = select(calls.c.number, calls.c.state, calls.c.document).order_by(calls.c.number.desc()).limit(limit)
    if call is not None:
        wanted = wanted.where(calls.c.call_id == call)
    if state is not None:
        wanted = wanted.where(calls.c.state == state)
    if trunk is not None:
        wanted = wanted.where(calls.c.trunk == trunk)
    if before is not None:
        wanted = wanted.where(calls.c.number < before)
    return connection.execute(wanted).all()


def ended_documents(connection: Connection) -> Iterator[Mapping[str, Any]]:
    """Yield the documents of ended calls, the oldest first; a page of them is in memory at a time."""
    number, page = 0, select(calls.c.number, calls.c.document).where(calls.c.state == "ended").order_by(calls.c.number)
    while found := connection.execute(page.where(calls.c.number > number).limit(PAGE)).all():
        for row in found:
            yield orjson.loads(row.document)
        number = found[-1].number


def read_call(connection: Connection, call_id: str) -> Mapping[str, Any] | None:
    """Return the newest document of a call, and in `documents` how many it has if there are several; None if none."""
    same = calls.c.call_id == call_id
    found = connection.scalar(select(calls.c.document).where(same).order_by(calls.c.number.desc()).limit(1))
    if found is None:
        return None
    count = connection.scalar(select(func.count()).select_from(calls).where(same)) or 0
    return dict(orjson.loads(found)) | ({"documents": count} if count > 1 else {})


def events_after(
    connection: Connection, after: int, limit: int, call: str | None = None, trunk: str | None = None
) -> Sequence[Any]:
    """Return `seq`, `call_id`, `trunk`, `kind` and `body` of the next events, in their order."""
    wanted = select(events.c.seq, events.c.call_id, events.c.trunk, events.c.kind, events.c.body)
    wanted = wanted.where(events.c.seq > after).order_by(events.c.seq).limit(limit)
    if call is not None:
        wanted = wanted.where(events.c.call_id == call)
    if trunk is not None:
        wanted = wanted.where(events.c.trunk == trunk)
    return connection.execute(wanted).all()


def bounds_of_events(connection: Connection) -> tuple[int, int]:
    """Return the smallest and the largest sequence number; 0 and 0 if there are no events."""
    low, high = connection.execute(select(func.min(events.c.seq), func.max(events.c.seq))).one()
    return int(low or 0), int(high or 0)
