"""Poll the model file, and request a reload when it has changed and is no longer changing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from speech_qc.errors import ReloadFailed
from speech_qc.file_stamp import file_stamp

logger = logging.getLogger("speech_qc.model")


async def watch_file(
    path: Path,
    every_s: float,
    changed: Callable[[], Awaitable[object]],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Call `changed` once for every new state of a file; run until cancelled.

    A file that is being written changes between polls, so two consecutive polls must agree. A file that cannot be used
    is not tried again until it changes.

    Args:
        path: The file.
        every_s: Seconds between two polls.
        changed: Awaited; may raise ReloadFailed after logging it.
        sleep: Waits for a number of seconds.
    """
    known = seen = file_stamp(path)
    while True:
        await sleep(every_s)
        now = file_stamp(path)
        if now is not None and now != known and now == seen:
            known = now
            logger.info("the model file has changed")
            with suppress(ReloadFailed):
                await changed()
        seen = now
