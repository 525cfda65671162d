"""Delivers webhooks: one thread per receiver, so that a slow or dead one delays no other."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from sqlalchemy.exc import SQLAlchemyError

from speech_qc.call_store.database import Database
from speech_qc.call_store.wall_clock import now_s
from speech_qc.call_store.writer import describe
from speech_qc.telemetry.metrics import Metrics
from speech_qc.version import __version__
from speech_qc.webhooks.config import WebhookConfig
from speech_qc.webhooks.outbox import Delivery, Failure, claim, count_waiting, hasten, settle
from speech_qc.webhooks.signing import Signer

if TYPE_CHECKING:  # imported where webhooks are sent: a server without them need not wait for it
    import httpx

logger = logging.getLogger(__name__)

AT_ONCE = 8
"""Maximum requests to one receiver at the same time, each of another call."""
POLL_S = 1.0
"""How often the database is asked for deliveries of other processes, and for those that are due again."""
FIRST_WAIT_S, MAX_WAIT_S = 1.0, 300.0
"""The wait after the first failed attempt, and the longest one; it doubles in between."""
LEASE_SPARE_S = 5.0
"""How much longer than its attempt a delivery is claimed: for reading the response and for noting what became of it."""
COUNT_S = 5.0
"""Seconds between two counts of what is waiting."""
GONE = 410
"""The receiver says that it wants no more: the specification asks senders to stop."""
MAX_RETRY_AFTER_S = 3600.0
FEW_BYTES, READ_S = 4096, 1.0
OUTAGE_S = 5.0
"""A receiver that accepted nothing for this long was down: when it is back, what was put off is sent at once."""
RUNNING_POLL_S = 0.2
GATHER_S = 0.005
"""How long an attempt that has ended waits for others, so that one transaction notes them and claims the next."""

Outcome = Literal["delivered", "failed", "abandoned"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """Result of one attempt; `retry_after_s` is what the receiver asked for."""

    outcome: Outcome
    why: str = ""
    retry_after_s: float = 0.0


def wait_after_s(attempts: int, draw: Callable[[], float] = random.random) -> float:
    """Return the seconds until the next attempt: doubled each time, and spread by half to either side.

    Args:
        attempts: Attempts that have failed, at least 1.
        draw: Returns a number in [0, 1).
    """
    return min(FIRST_WAIT_S * 2.0 ** min(attempts - 1, 20), MAX_WAIT_S) * (0.5 + draw())


async def attempt(client: httpx.AsyncClient, signer: Signer, delivery: Delivery, limit_s: float) -> Attempt:
    """Send one webhook. Redirects are not followed: only the operator names receivers.

    Args:
        client: Sends it.
        signer: Signs it.
        delivery: The webhook.
        limit_s: Seconds for all of it, from the look-up of the name to the status of the response.
    """
    body = delivery.body.encode()
    headers = signer.headers(delivery.message_id, int(now_s()), body)
    headers |= {"Content-Type": "application/json", "User-Agent": f"speech-qc/{__version__}"}
    try:
        request = client.build_request("POST", delivery.target, content=body, headers=headers)
        async with asyncio.timeout(limit_s):
            response = await client.send(request, stream=True)
    except Exception as error:  # whatever it is, the others must go on
        return Attempt("failed", type(error).__name__)
    await _read_little(response)
    if response.is_success:
        return Attempt("delivered")
    if response.status_code == GONE:
        return Attempt("abandoned", "status 410")
    asked = response.headers.get("retry-after", "")
    retry_after_s = min(float(asked), MAX_RETRY_AFTER_S) if asked.isascii() and asked.isdecimal() else 0.0
    return Attempt("failed", f"status {response.status_code}", retry_after_s)


async def _read_little(response: httpx.Response) -> None:
    """Read a short body, which keeps the connection usable; leave a long or slow one."""
    read = 0
    with suppress(Exception):  # the status is known, so nothing of the body matters
        async with asyncio.timeout(READ_S), aclosing(response):
            async for part in response.aiter_raw():
                read += len(part)
                if read > FEW_BYTES:
                    break


class WebhookSender:
    """Delivers what is in the outbox, until it is closed.

    Args:
        database: Contains the outbox.
        config: Receivers, secret and limits.
        metrics: Counts attempts.
    """

    def __init__(self, database: Database, config: WebhookConfig, metrics: Metrics) -> None:
        self._database, self._metrics = database, metrics
        self._stopping = threading.Event()
        self._receivers = [
            _Receiver(url, number, database, config, metrics, self._stopping)
            for number, url in enumerate(config.subscription.urls, 1)
        ]

    def start(self) -> None:
        """Start a thread for each receiver."""
        for receiver in self._receivers:
            receiver.start()

    def wake(self) -> None:
        """Say, from any thread, that there are new deliveries."""
        for receiver in self._receivers:
            receiver.wake()

    def close(self, finish_s: float) -> None:
        """End the threads; blocks until the requests in progress have ended, or time out.

        Args:
            finish_s: For a database that ends with the server: how long to go on while deliveries are waiting.
        """
        if not self._receivers:
            return
        end_s = time.monotonic() + finish_s
        while self._database.private and time.monotonic() < end_s and self._count():
            self.wake()
            time.sleep(0.05)
        self._stopping.set()
        self.wake()
        for receiver in self._receivers:
            receiver.join(max(0.1, end_s - time.monotonic()))
        if self._database.private and (left := self._count()):
            logger.error("%d webhooks were not delivered before the server stopped", left)

    def _count(self) -> int:
        try:
            return count_waiting(self._database)
        except SQLAlchemyError:
            return 0


@contextmanager
def _looping(name: str) -> Iterator[asyncio.AbstractEventLoop]:
    """Run an event loop in a thread, apart from the database, which may take seconds to answer."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name=f"{name}-requests", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class _Receiver:
    """The thread of one receiver."""

    def __init__(
        self,
        url: str,
        number: int,
        database: Database,
        config: WebhookConfig,
        metrics: Metrics,
        stopping: threading.Event,
    ) -> None:
        assert config.signer is not None, "there are URLs, so there is a secret"
        self._url, self._database, self._signer = url, database, config.signer
        self._timeout_s, self._keep_s = config.timeout_s, config.keep_s
        self._metrics, self._stopping = metrics, stopping
        self._name = f"receiver {number} ({urlsplit(url).hostname})"  # its path and query may be secret
        self._news = threading.Event()
        self._failing_since_s: float | None = None
        self._counts, self._counted_s = number == 1, -COUNT_S  # one thread is enough to count for all
        self._thread = threading.Thread(target=self._run, name=f"webhooks-{number}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._news.set()

    def join(self, timeout_s: float) -> None:
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        import httpx

        limits = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
        # Each attempt has a limit of its own; those of httpx apply to each read and write, so their sum has none.
        with _looping(self._thread.name) as loop:
            client = httpx.AsyncClient(timeout=None, limits=limits, follow_redirects=False)
            try:
                self._deliver(client, loop)
            finally:
                asyncio.run_coroutine_threadsafe(client.aclose(), loop).result()

    def _deliver(self, client: httpx.AsyncClient, loop: asyncio.AbstractEventLoop) -> None:
        running: dict[Future[Attempt], Delivery] = {}
        while not self._stopping.is_set() or running:
            self._news.clear()
            try:
                self._count()
                if not self._stopping.is_set():
                    began_s = time.monotonic()
                    for delivery in self._claim(running.values()):
                        # A claim that took long leaves less time, so that no attempt outlasts its lease.
                        late_s = max(0.0, time.monotonic() - began_s - LEASE_SPARE_S / 2)
                        sending = attempt(client, self._signer, delivery, self._timeout_s - late_s)
                        running[asyncio.run_coroutine_threadsafe(sending, loop)] = delivery
                if running:
                    if wait(running, RUNNING_POLL_S, FIRST_COMPLETED).done:
                        self._settle(running, wait(running, GATHER_S).done)
                else:
                    self._news.wait(POLL_S)
            except Exception as error:  # of the database, or anything else: the thread must go on
                # What was delivered but could not be noted is claimed until its lease ends, and then sent again.
                logger.warning("%s: the outbox cannot be read or written: %s", self._name, describe(error))
                self._stopping.wait(POLL_S)

    def _count(self) -> None:
        """Update the gauge here, because a scrape must not wait for the database."""
        if self._counts and time.monotonic() - self._counted_s >= COUNT_S:
            self._metrics.webhooks_waiting.set(count_waiting(self._database))
            self._counted_s = time.monotonic()

    def _claim(self, running: Collection[Delivery]) -> list[Delivery]:
        most = AT_ONCE if self._failing_since_s is None else 1  # to a receiver that fails, one attempt at a time
        if most <= len(running):
            return []
        numbers = [delivery.number for delivery in running]
        return claim(self._database, self._url, most - len(running), self._timeout_s + LEASE_SPARE_S, numbers)

    def _settle(self, running: dict[Future[Attempt], Delivery], done: set[Future[Attempt]]) -> None:
        finished, failed, outage_s = [], [], 0.0
        for future in done:
            delivery, result = running.pop(future), future.result()
            self._metrics.webhooks.labels(result.outcome).inc()
            if result.outcome == "failed":
                self._note_failure(delivery, result)
                wait_s = max(wait_after_s(delivery.attempts + 1), result.retry_after_s)
                failed.append(Failure(delivery, wait_s))
                continue
            finished.append(delivery)
            if result.outcome == "abandoned":
                logger.error("%s: webhook %s was abandoned: %s", self._name, delivery.message_id, result.why)
            elif self._failing_since_s is not None:
                outage_s = max(outage_s, time.monotonic() - self._failing_since_s)
                self._failing_since_s = None
        if done:
            settle(self._database, finished, failed)
        if outage_s >= OUTAGE_S:
            logger.info("%s accepts webhooks again, after %.0f s", self._name, outage_s)
            hasten(self._database, self._url)

    def _note_failure(self, delivery: Delivery, result: Attempt) -> None:
        if self._failing_since_s is None:
            self._failing_since_s = time.monotonic()
            logger.warning("%s: webhook %s failed: %s", self._name, delivery.message_id, result.why)
