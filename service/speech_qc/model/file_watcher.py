"""Poll the model file, and request a reload when it has changed and is no longer changing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from speech_qc.errors import ReloadFailed
from speech_qc.file_stamp import FileStamp, file_stamp

logger = logging.getLogger("speech_qc.model")


async def watch_file(
    path: Path,
    known: FileStamp | None,
    every_s: float,
    changed: Callable[[], Awaitable[object]],
    obstacle: Callable[[], str | None],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Call `changed` once for every new state of a file; run until cancelled.

    A file that is being written changes between polls, so two consecutive polls must agree. A file that cannot be used
    is not tried again until it changes; one that cannot be tried yet waits.

    Args:
        path: The file.
        known: Its state before it was read; None if there was no file.
        every_s: Seconds between two polls.
        changed: Awaited; may raise ReloadFailed after logging it.
        obstacle: Returns why a reload would fail now, whatever the file contains; None if it would not.
        sleep: Waits for a number of seconds.
    """
    seen, waiting = file_stamp(path), False
    while True:
        await sleep(every_s)
        now = file_stamp(path)
        if now is not None and now != known and now == seen:
            why = obstacle()
            if why is None:
                known, waiting = now, False
                logger.info("the model file has changed")
                with suppress(ReloadFailed):
                    await changed()
            elif not waiting:
                waiting = True
                logger.warning("the model file has changed, but is not read yet: %s", why)
        seen = now
