"""Ends a process that can no longer serve, so that its supervisor starts a new one.

Two failures cannot be fixed from inside. A dead engine: nothing can end a thread that hangs in a device call. A blocked
event loop: nothing else answers requests. The server detects the first in the event loop; this module detects the
second in a separate thread. Neither detects a call that never releases the GIL.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from speech_qc.exit_codes import FATAL

logger = logging.getLogger("speech_qc.watchdog")

LEAST_LIMIT_S = 10.0
"""Minimum limit: an event loop that is merely slow must not end any streams."""
CHECK_S = 1.0
LOG_TIMEOUT_S = 2.0
"""Longest wait for the log message: logging itself may be what hangs."""
SHORT_LOG_TIMEOUT_S = 0.2
"""The same, when the drain time has expired."""


def end_now() -> NoReturn:
    """Exit immediately: a normal exit would wait for the thread that hangs."""
    os._exit(FATAL)


def end_after(seconds: float) -> threading.Thread:
    """Exit after this many seconds, if the process is still running then."""

    def end() -> None:
        time.sleep(max(0.0, seconds - SHORT_LOG_TIMEOUT_S))
        log_thread = threading.Thread(
            target=logger.critical,
            args=("the drain time has expired and something hangs: the process exits (exit code %d)", FATAL),
            daemon=True,
        )
        log_thread.start()
        log_thread.join(SHORT_LOG_TIMEOUT_S)
        end_now()

    thread = threading.Thread(target=end, name="speechqc-last-resort", daemon=True)
    thread.start()
    return thread


class Watchdog:
    """Ends the process if `beat` is not called in time; inactive before the first call.

    Args:
        limit_s: Longest time between two calls.
        clock: Monotonic time, seconds.
        end: Ends the process.
    """

    def __init__(
        self, limit_s: float, *, clock: Callable[[], float] = time.monotonic, end: Callable[[], object] = end_now
    ) -> None:
        self._limit_s, self._clock, self._end = limit_s, clock, end
        self._due_s = self._looked_s = 0.0
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    def beat(self, limit_s: float | None = None) -> None:
        """Report that the event loop runs.

        Args:
            limit_s: Time until the next call is due; None for the usual limit.
        """
        self._due_s = self._clock() + (self._limit_s if limit_s is None else limit_s)
        if self._thread is None:
            self._looked_s = self._clock()
            self._thread = threading.Thread(target=self._run, name="speechqc-watchdog", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop the watchdog's thread."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def check(self) -> None:
        """End the process if a call of `beat` is overdue."""
        now_s = self._clock()
        slept_s, self._looked_s = now_s - self._looked_s, now_s
        if slept_s > CHECK_S + self._limit_s / 2:
            # This thread was late, too: the whole process was suspended, so the event loop could not run.
            self._due_s = max(self._due_s, now_s + self._limit_s)
        elif now_s >= self._due_s:
            log_thread = threading.Thread(target=self._log_reason, daemon=True)
            log_thread.start()
            log_thread.join(LOG_TIMEOUT_S)
            self._end()

    def _run(self) -> None:
        while not self._stopped.wait(CHECK_S):
            self.check()

    @staticmethod
    def _log_reason() -> None:
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        where = "".join(traceback.format_stack(frame)) if frame is not None else "unknown"
        logger.critical("the event loop is blocked: the process exits (exit code %d):\n%s", FATAL, where)
