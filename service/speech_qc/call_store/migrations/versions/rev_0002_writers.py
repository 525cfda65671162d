"""Which process a call belongs to, and when each process was last there."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the table and the column."""
    op.add_column("calls", sa.Column("owner", sa.Text))
    op.create_table(
        "writers",
        sa.Column("owner", sa.Text, primary_key=True),
        sa.Column("alive_s", sa.Float, nullable=False),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("writers")
    op.drop_column("calls", "owner")
