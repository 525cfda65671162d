"""The database: SQLite in memory, SQLite in a file, or PostgreSQL, behind the same few operations."""

from __future__ import annotations

import importlib.util
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import QueuePool

from speech_qc.call_store.schema import metadata
from speech_qc.call_store.wall_clock import now_s
from speech_qc.errors import SettingsError
from speech_qc.settings import Settings
from speech_qc.wire.vocabulary import ResultsScope

LOCK_KEY = 0x5BEEC49C
"""PostgreSQL's advisory lock of this program: any number that nothing else in the database uses."""
WAIT_S = 5
"""Longest wait for a connection, and for another process's transaction."""
STATEMENT_S = 20
MIGRATIONS = Path(__file__).resolve().parent / "migrations"
EXPECTED = "expected sqlite:////absolute/path.db or postgresql://user:password@host/database"


class Database:
    """Where results are kept.

    Args:
        url: SQLAlchemy's URL of the database; None for SQLite in memory.
        private: Whether the contents belong to one run of the server and are not kept after it.

    Raises:
        SettingsError: The URL is not one of a database that is supported, or its driver is not installed.
    """

    def __init__(self, url: URL | None, *, private: bool) -> None:
        self.private = private
        self.is_sqlite = url is None or url.drivername == "sqlite"
        self.scope: ResultsScope = "server" if self.is_sqlite else "shared"
        self._file = url.database if url is not None and self.is_sqlite else None
        self._engine = _sqlite(url) if self.is_sqlite else _postgresql(url or make_url(""))

    @classmethod
    def of(cls, settings: Settings, private_file: Path | None = None) -> Database:
        """Open the database that the settings name; connects only when it is used.

        Args:
            settings: `results_url`.
            private_file: SQLite file that all workers of one server share if the settings name no database.

        Raises:
            SettingsError: As the class.
        """
        if settings.results_url is not None:
            return cls(parse_url(settings.results_url.get_secret_value()), private=False)
        return cls(None if private_file is None else URL.create("sqlite", database=str(private_file)), private=True)

    def prepare(self) -> None:
        """Create the tables, or bring them up to date; safe when several processes do so at the same time."""
        if self._file is not None:
            os.close(os.open(self._file, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite would let other users read a new file
        with self.writing() as connection:
            if not self.private:
                _migrate(connection)
            elif not inspect(connection).has_table("events"):
                metadata.create_all(connection)
                # Sequence numbers of an earlier run stay smaller, so that a watcher that resumes misses nothing of
                # this one.
                start = {"start": int(now_s() * 1000)}
                connection.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES ('events', :start)"), start)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Run one read-only transaction."""
        with self._engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self, *, ordered: bool = True) -> Iterator[Connection]:
        """Run one transaction that writes.

        Args:
            ordered: Let only one such transaction run at a time, in all processes, so that sequence numbers become
                visible in their order. SQLite always does.
        """
        with self._engine.connect().execution_options(writes=True) as connection, connection.begin():
            if ordered and not self.is_sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})
            yield connection

    def close(self) -> None:
        """Close all connections; SQLite in memory is empty after that."""
        self._engine.dispose()


def parse_url(given: str) -> URL:
    """Parse the URL of a database.

    Raises:
        SettingsError: It is not one of SQLite in a file or of PostgreSQL; the message does not repeat its password.
    """
    try:
        url = make_url(given)
    except ArgumentError:
        raise SettingsError(f"SPEECHQC_RESULTS_URL: {EXPECTED}, got something else: correct it") from None
    if url.drivername == "sqlite":
        if not url.database or url.database == ":memory:" or url.query:
            raise SettingsError(
                f"SPEECHQC_RESULTS_URL: {EXPECTED}, got sqlite without a file or with options: name a file, or "
                "unset it to keep results in memory"
            )
        folder = Path(url.database).resolve().parent
        if not folder.is_dir():
            raise SettingsError(f"SPEECHQC_RESULTS_URL: expected a file in a folder, {folder} is none: create it")
        return url
    if url.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        if importlib.util.find_spec("psycopg") is None:
            raise SettingsError(
                "SPEECHQC_RESULTS_URL: PostgreSQL needs its driver: pip install 'speech-qc[postgres]' installs it"
            )
        return url.set(drivername="postgresql+psycopg")
    raise SettingsError(f"SPEECHQC_RESULTS_URL: {EXPECTED}, got {url.drivername}://: use one of them")


def _sqlite(url: URL | None) -> Engine:
    # One connection that threads take in turn: in memory, a second one would be another, empty database; in a file, it
    # would only wait for the first one's lock.
    engine = create_engine(
        url or "sqlite://",
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=0,
        pool_timeout=WAIT_S,
        connect_args={"check_same_thread": False, "timeout": WAIT_S},
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # the transactions below are ours, not the driver's
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # a killed process loses nothing; a power cut the last moment
        connection.execute("PRAGMA journal_size_limit = 4194304")
        connection.execute("PRAGMA secure_delete = ON")  # a deleted call is overwritten

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # IMMEDIATE takes the lock before anything is read, so that two processes cannot both read and then write.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgresql(url: URL) -> Engine:
    limits = f"-c statement_timeout={STATEMENT_S * 1000} -c lock_timeout={WAIT_S * 1000}"
    arguments: dict[str, Any] = {"connect_timeout": WAIT_S, "tcp_user_timeout": STATEMENT_S * 1000, "options": limits}
    return create_engine(url, pool_size=4, max_overflow=0, pool_timeout=WAIT_S, pool_pre_ping=True,
                         connect_args=arguments, hide_parameters=True)  # fmt: skip


def _migrate(connection: Connection) -> None:
    from alembic import command  # imported only where a database is kept
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
