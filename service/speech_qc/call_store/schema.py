"""The tables. A change here needs a migration in `migrations/versions`; a test compares both."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, MetaData, Table, Text

_NUMBER = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows of its own accord only in an INTEGER

metadata = MetaData()

calls = Table(
    "calls",
    metadata,
    Column("number", _NUMBER, primary_key=True, autoincrement=True),
    Column("document_id", Text, nullable=False, unique=True),
    Column("call_id", Text, nullable=False),
    Column("vendor", Text, nullable=False),
    Column("trunk", Text),
    Column("state", Text, nullable=False),
    Column("updated_s", Float, nullable=False),
    Column("document", Text, nullable=False),
    Column("owner", Text),
    Index("calls_by_id", "call_id", "number"),
    Index("calls_by_state", "state", "updated_s"),
    Index("calls_by_trunk", "trunk", "number"),
    sqlite_autoincrement=True,
)
"""One row per document; a call id has several if different servers took its legs, or if it began anew. Only the process
that made a `document_id` writes to its row, or another one when that process is gone. `number` grows with each document
that begins. `document` is JSON, `updated_s` seconds since 1970, `owner` the process that has the call."""

events = Table(
    "events",
    metadata,
    Column("seq", _NUMBER, primary_key=True, autoincrement=True),
    Column("event_id", Text),
    Column("document_id", Text),
    Column("call_id", Text, nullable=False),
    Column("trunk", Text),
    Column("kind", Text, nullable=False),
    Column("at_s", Float, nullable=False),
    Column("body", Text, nullable=False),
    Index("events_by_event", "event_id", unique=True),
    Index("events_by_document", "document_id"),
    Index("events_by_call", "call_id"),
    Index("events_by_kind", "kind", "at_s"),
    sqlite_autoincrement=True,
)
"""Events in the order in which watchers get them; `seq` is never used twice. `body` is JSON, as sent.
`event_id` is made before the event is stored, so that a second attempt stores nothing twice; null in rows of a database
that is older than it."""

deliveries = Table(
    "deliveries",
    metadata,
    Column("number", _NUMBER, primary_key=True, autoincrement=True),
    Column("target", Text, nullable=False),
    Column("call_id", Text, nullable=False),
    Column("message_id", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("created_s", Float, nullable=False),
    Column("due_s", Float, nullable=False),
    Column("claimed_until_s", Float, nullable=False),
    Column("attempts", Integer, nullable=False),
    Index("deliveries_by_message", "message_id", unique=True),
    Index("deliveries_by_call", "target", "call_id", "number"),
    Index("deliveries_by_due", "target", "due_s"),
    sqlite_autoincrement=True,
)
"""The outbox of webhooks: one row per event and receiver, until it is delivered or abandoned."""

writers = Table(
    "writers",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("alive_s", Float, nullable=False),
)
"""Processes that write; `alive_s` is renewed every few seconds, and says when one was killed."""

removed = Table(
    "removed",
    metadata,
    Column("document_id", Text, primary_key=True),
    Column("at_s", Float, nullable=False),
)
"""Documents that were deleted on request: what their servers still publish is not stored."""
