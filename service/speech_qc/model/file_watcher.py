"""Looks at the model file now and then, and asks for a reload when it has changed and stays as it is."""

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
    """Call `changed` once for every new state of a file; until cancelled.

    A file that is being written changes from look to look, so it must look the same twice. One that cannot be used is
    not tried again until it changes.

    Args:
        path: The file.
        every_s: Between two looks.
        changed: Awaited; may raise ReloadFailed, which it has logged.
        sleep: Waits.
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
