"""Calls, their events, the outbox of webhooks, and the list of removed calls."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "calls",
        sa.Column("number", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("call_id", sa.Text, nullable=False, unique=True),
        sa.Column("vendor", sa.Text, nullable=False),
        sa.Column("trunk", sa.Text),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("updated_s", sa.Float, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("calls_by_state", "calls", ["state", "updated_s"])
    op.create_index("calls_by_trunk", "calls", ["trunk", "number"])
    op.create_table(
        "events",
        sa.Column("seq", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("call_id", sa.Text, nullable=False),
        sa.Column("trunk", sa.Text),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("at_s", sa.Float, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("events_by_call", "events", ["call_id"])
    op.create_index("events_by_kind", "events", ["kind", "at_s"])
    op.create_table(
        "deliveries",
        sa.Column("number", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("call_id", sa.Text, nullable=False),
        sa.Column("message_id", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created_s", sa.Float, nullable=False),
        sa.Column("due_s", sa.Float, nullable=False),
        sa.Column("claimed_until_s", sa.Float, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("deliveries_by_call", "deliveries", ["target", "call_id", "number"])
    op.create_index("deliveries_by_due", "deliveries", ["target", "due_s"])
    op.create_table(
        "removed",
        sa.Column("call_id", sa.Text, primary_key=True),
        sa.Column("at_s", sa.Float, nullable=False),
    )


def downgrade() -> None:
    """Drop the tables."""
    for name in ("removed", "deliveries", "events", "calls"):
        op.drop_table(name)
