"""Several documents of one call id, and events that are stored once however often it is tried."""

from __future__ import annotations

from contextlib import AbstractContextManager

import sqlalchemy as sa
from alembic import op
from alembic.operations import BatchOperations

revision = "0003"
down_revision = "0002"

NAMES = {"uq": "%(table_name)s_%(column_0_name)s_key"}
"""PostgreSQL's own names of unique constraints; SQLite has none."""


def upgrade() -> None:
    """Add the columns; what is there keeps its call id as its document id, of which there was one each."""
    op.add_column("calls", sa.Column("document_id", sa.Text))
    op.execute("UPDATE calls SET document_id = call_id")
    with _calls() as table:
        table.drop_constraint("calls_call_id_key", type_="unique")
        table.alter_column("document_id", existing_type=sa.Text, nullable=False)
        table.create_unique_constraint("calls_document_id_key", ["document_id"])
    op.create_index("calls_by_id", "calls", ["call_id", "number"])
    # SQLite would begin to number anew if it had to copy this table: so both may be null there.
    op.add_column("events", sa.Column("event_id", sa.Text))
    op.add_column("events", sa.Column("document_id", sa.Text))
    op.execute("UPDATE events SET document_id = call_id")
    op.create_index("events_by_event", "events", ["event_id"], unique=True)
    op.create_index("events_by_document", "events", ["document_id"])
    op.create_index("deliveries_by_message", "deliveries", ["message_id"], unique=True)
    op.drop_table("removed")  # what it says concerns processes that have ended for this upgrade
    _create_removed("document_id")


def downgrade() -> None:
    """Drop them, and of each call id all documents but the newest."""
    op.drop_table("removed")
    _create_removed("call_id")
    op.drop_index("deliveries_by_message", "deliveries")
    for name in ("events_by_document", "events_by_event"):
        op.drop_index(name, "events")
    for name in ("document_id", "event_id"):
        op.drop_column("events", name)
    op.execute("DELETE FROM calls WHERE number NOT IN (SELECT max(number) FROM calls GROUP BY call_id)")
    op.drop_index("calls_by_id", "calls")
    with _calls() as table:
        table.drop_constraint("calls_document_id_key", type_="unique")
        table.drop_column("document_id")
        table.create_unique_constraint("calls_call_id_key", ["call_id"])


def _calls() -> AbstractContextManager[BatchOperations]:
    return op.batch_alter_table("calls", naming_convention=NAMES, table_kwargs={"sqlite_autoincrement": True})


def _create_removed(column: str) -> None:
    op.create_table(
        "removed",
        sa.Column(column, sa.Text, primary_key=True),
        sa.Column("at_s", sa.Float, nullable=False),
    )
