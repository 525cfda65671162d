"""The end of a process that cannot serve any more, so that whatever watches over it starts another one.

Two things cannot be mended from inside: an engine that is dead, since nothing can end a thread that hangs in a device,
and an event loop that stands still, since nothing else answers. The first is seen in the loop, by the server; the
second by a thread beside it, here. Only a call that never gives Python's lock back is seen by neither.
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
"""A loop that is only late must not cost anybody a stream."""
LOOK_S = 1.0
LAST_WORDS_S = 2.0
"""Longest wait for the log, which may be what hangs,"""
SHORT_WORDS_S = 0.2
"""and where there is no time for that."""


def end_now() -> NoReturn:
    """End this process: an ordinary end would wait for the thread that hangs."""
    os._exit(FATAL)


def end_after(seconds: float) -> threading.Thread:
    """Have this process end at that time, if it is still there then."""

    def end() -> None:
        time.sleep(max(0.0, seconds - SHORT_WORDS_S))
        words = threading.Thread(
            target=logger.critical,
            args=("the time to drain is over and something hangs: the process ends (exit code %d)", FATAL),
            daemon=True,
        )
        words.start()
        words.join(SHORT_WORDS_S)
        end_now()

    thread = threading.Thread(target=end, name="speechqc-last-resort", daemon=True)
    thread.start()
    return thread


class Watchdog:
    """Ends the process when nobody has called `beat` in time; nothing happens before the first call.

    Args:
        limit_s: From one call to the next.
        clock: Monotonic seconds.
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
        """Say that the loop runs, or that it needs so many seconds until it says so again."""
        self._due_s = self._clock() + (self._limit_s if limit_s is None else limit_s)
        if self._thread is None:
            self._looked_s = self._clock()
            self._thread = threading.Thread(target=self._keep_looking, name="speechqc-watchdog", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def look(self) -> None:
        """End the process if it is time."""
        now_s = self._clock()
        slept_s, self._looked_s = now_s - self._looked_s, now_s
        if slept_s > LOOK_S + self._limit_s / 2:
            # This thread slept, too: the whole process was stopped, and the loop has had no chance.
            self._due_s = max(self._due_s, now_s + self._limit_s)
        elif now_s >= self._due_s:
            words = threading.Thread(target=self._say_why, daemon=True)
            words.start()
            words.join(LAST_WORDS_S)
            self._end()

    def _keep_looking(self) -> None:
        while not self._stopped.wait(LOOK_S):
            self.look()

    @staticmethod
    def _say_why() -> None:
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        where = "".join(traceback.format_stack(frame)) if frame is not None else "unknown"
        logger.critical("the event loop stands still, so the process ends (exit code %d):\n%s", FATAL, where)
