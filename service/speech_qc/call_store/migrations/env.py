"""Run by Alembic for every command: migrates over the connection that it is given.

To write a migration after a change of `schema.py`:

    SPEECHQC_RESULTS_URL=sqlite:////tmp/calls.db alembic -c service/speech_qc/call_store/migrations/alembic.ini \
        revision --autogenerate -m "say what changes"
"""

from __future__ import annotations

import os

from alembic import context
from sqlalchemy import Connection, create_engine

from speech_qc.call_store.schema import metadata


def run(connection: Connection) -> None:
    """Migrate within the connection's transaction."""
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


given: Connection | None = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    with create_engine(os.environ["SPEECHQC_RESULTS_URL"]).begin() as opened:
        run(opened)
