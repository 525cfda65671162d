"""The server process around the application: on a signal, live streams end gracefully before sockets are closed.

uvicorn alone closes every WebSocket before it notifies the application of the shutdown, so summaries would be lost.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from speech_qc import gc_tuning
from speech_qc.errors import ReloadFailed, SettingsError
from speech_qc.exit_codes import FATAL
from speech_qc.server.http_protocol import BoundedHttpProtocol, bounded_http_protocol
from speech_qc.server.watchdog import LEAST_LIMIT_S, Watchdog, end_after, end_now
from speech_qc.server.websocket_protocol import bounded_websocket_protocol
from speech_qc.state import AppState

logger = logging.getLogger("speech_qc.server")

FIRST_REQUEST_S = 1.0
"""Longest wait, during shutdown, for the first request of a new connection; slower clients can retry elsewhere."""


class StreamServer(uvicorn.Server):
    """uvicorn's server, except that a shutdown first sends live clients their summary and close code 1012.

    Args:
        app: The application.
        on_started: Awaited once, when the server accepts connections.
        config: Options of `uvicorn.Config`; some have other defaults here.
    """

    def __init__(self, app: FastAPI, *, on_started: Callable[[], Awaitable[None]] | None = None, **config: Any) -> None:
        parts: AppState = app.state.parts
        settings, metrics = parts.settings, parts.metrics
        defaults: dict[str, Any] = {
            "http": bounded_http_protocol(settings, metrics.connections_refused.inc),
            "ws": bounded_websocket_protocol(settings),
            "timeout_keep_alive": settings.keep_alive_s,
            "ws_per_message_deflate": False,  # compressing each message costs more than it saves on a local network
            # Twice the stream's own limit, so that its error message, which says what to do, precedes a bare close.
            "ws_max_size": 2 * settings.stream_max_message_bytes,
        }
        super().__init__(uvicorn.Config(app, **(defaults | config)))
        metrics.connections.set_function(lambda: len(self.server_state.connections))
        parts.memory.count_unsent(self._unsent_bytes)
        self._parts = parts
        self._on_started = on_started
        self._reloads: set[asyncio.Task[None]] = set()
        self._settings, self._metrics = settings, metrics
        self._watchdog: Watchdog | None = None
        self._owns_process = False
        self._last_resort: threading.Thread | None = None
        self._dead_since_s: float | None = None
        self._collected_s = 0.0

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal; if the process can no longer serve, exit with `FATAL`."""
        self._owns_process = True
        if self._settings.exit_when_dead_s:
            self._watchdog = Watchdog(max(self._settings.step_deadline_s, LEAST_LIMIT_S))
        try:
            super().run(sockets)
        finally:
            if self._watchdog is not None:
                self._watchdog.stop()
            if not self._is_alive():
                end_now()

    async def on_tick(self, counter: int) -> bool:
        """Feed the watchdog ten times a second; return True if the engine has been dead for too long.

        Every `COLLECT_S` seconds, run a garbage collection, which frees what errors have left in memory.
        """
        if self._watchdog is not None:
            self._watchdog.beat()
        now_s = time.monotonic()
        if now_s - self._collected_s >= gc_tuning.COLLECT_S:
            gc_tuning.collect_now()
            self._collected_s = now_s
        return self._should_give_up() or await super().on_tick(counter)

    def _is_alive(self) -> bool:
        return self._parts.engine.status.alive

    def _should_give_up(self) -> bool:
        if not self._settings.exit_when_dead_s:
            return False
        if self._is_alive():  # a reload may have replaced a dead engine
            self._dead_since_s = None
            return False
        if self._dead_since_s is None:
            self._dead_since_s = time.monotonic()
        if time.monotonic() - self._dead_since_s < self._settings.exit_when_dead_s:
            return False
        logger.critical("the engine is dead and was not replaced: the process exits (exit code %d)", FATAL)
        return True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as uvicorn does, install the SIGHUP handler, then call `on_started`."""
        await super().startup(sockets)
        loop = asyncio.get_running_loop()
        self._metrics.tasks.set_function(lambda: len(asyncio.all_tasks(loop)))
        self._reload_at_hangup()
        gc_tuning.raise_gc_thresholds()
        gc_tuning.freeze_startup_objects()
        if self._on_started is not None:
            await self._on_started()

    def _reload_at_hangup(self) -> None:
        """Reload the model on SIGHUP; only the main thread can handle signals."""
        if not hasattr(signal, "SIGHUP") or threading.current_thread() is not threading.main_thread():
            return
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)

    def _reload(self) -> None:
        task = asyncio.get_running_loop().create_task(_reload(self._parts))
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    def _unsent_bytes(self) -> int:
        """Return the bytes in all write buffers, which clients have not read yet."""
        return sum(one.transport.get_write_buffer_size() for one in self.server_state.connections)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start the drain time at the signal: an event loop that hangs would never call `shutdown`."""
        self.begin_to_drain()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no new connections, drain the streams, then continue as uvicorn does; all within `drain_s`."""
        self.begin_to_drain()
        await asyncio.sleep(0)  # let the loop accept the connections in the kernel's backlog,
        await asyncio.sleep(0)  # which closing the socket would reset
        for server in self.servers:
            server.close()
        if not self.force_exit:
            await self._parts.streams.drain(self._parts.drain.work_remaining_s)
            await self._parts.results.end_watching()
            await self._wait_for_first_requests()
        left_s = self._parts.drain.work_remaining_s
        self.config.timeout_graceful_shutdown = left_s  # type: ignore[assignment]  # any number will do
        await super().shutdown(sockets)
        gc.unfreeze()  # otherwise frozen objects would be reported as leaks at exit

    def begin_to_drain(self) -> None:
        """Start the drain time, unless it has started; the process exits when it has expired.

        A separate thread ends the process, so that this works even if a decoder thread or the event loop hangs.
        """
        self._parts.drain.begin()
        if self._watchdog is not None:
            self._watchdog.beat(self._parts.drain.remaining_s + LEAST_LIMIT_S)
        if self._owns_process and self._last_resort is None:
            self._last_resort = end_after(self._parts.drain.remaining_s)

    async def _wait_for_first_requests(self) -> None:
        """Wait briefly for the first requests of new connections: uvicorn closes connections without a request."""
        end_s = time.monotonic() + min(FIRST_REQUEST_S, self._parts.drain.work_remaining_s)
        while time.monotonic() < end_s and not self.force_exit:
            if not any(isinstance(one, BoundedHttpProtocol) and one.is_new for one in self.server_state.connections):
                return
            await asyncio.sleep(0.02)


async def _reload(parts: AppState) -> None:
    with suppress(ReloadFailed):  # already logged
        await parts.models.reload()


def run_server(app: FastAPI, **config: Any) -> None:
    """Serve until a signal, as `uvicorn.run` does.

    Args:
        app: The application.
        config: Options of `StreamServer`.

    Raises:
        SettingsError: The server could not start, for example because the port is taken.
    """
    server = StreamServer(app, **config)
    server.run()
    if not server.started:
        raise SettingsError("the server did not start: see the log above")
