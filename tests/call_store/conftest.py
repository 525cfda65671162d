"""Databases: SQLite in memory, SQLite in a file, and PostgreSQL where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from store_material import Postgres, Receiver, find_postgres, receiving

from speech_qc.call_store import Results
from speech_qc.settings import Settings
from speech_qc.telemetry.metrics import Metrics
from speech_qc.webhooks import WebhookConfig, WebhookSender
from waiting import block_until


class Stack:
    """Results and webhooks without a server."""

    def __init__(self, settings: Settings) -> None:
        self.metrics = Metrics()
        config = WebhookConfig.of(settings)
        self.results = Results(settings, config.subscription, self.metrics)
        self.webhooks = WebhookSender(self.results.database, config, self.metrics)
        self.results.on_deliveries(self.webhooks.wake)
        self.results.start()
        self.webhooks.start()

    def stored(self, patience_s: float = 8.0) -> None:
        """Wait until nothing waits in memory."""
        block_until(
            lambda: self.results._writer.is_connected and not self.results._writer.waiting,
            "all events are stored",
            patience_s=patience_s,
        )

    def close(self) -> None:
        self.results.finish(2.0)
        self.webhooks.close(1.0)
        self.results.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server = Postgres(find_postgres())
    yield server
    server.remove()


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """The value of SPEECHQC_RESULTS_URL for each kind of database; None for memory."""
    if request.param == "memory":
        return None
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/calls.db"
    return str(request.getfixturevalue("postgres").database())


@pytest.fixture
def make_stack() -> Iterator[Callable[..., Stack]]:
    made: list[Stack] = []

    def make(**settings: Any) -> Stack:
        made.append(Stack(Settings(**settings)))
        return made[-1]

    yield make
    for stack in made:
        stack.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one
