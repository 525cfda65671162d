"""Concurrency and rate limits of each API key. Independent of HTTP.

Each process counts separately, as it does for the places of uploads and streams.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from speech_qc.errors import Overloaded
from speech_qc.security.api_keys import Key
from speech_qc.security.caller import Caller
from speech_qc.settings import Settings

MINUTE_S = 60.0


@dataclass(slots=True)
class _Use:
    """Usage of one key: live channels, uploads in progress, and the uploads left in its rate limit."""

    channels: int = 0
    uploading: int = 0
    uploads: float = 0.0
    at_s: float = field(default=-math.inf)


class Quotas:
    """Limits per key; used from one event loop.

    Args:
        settings: Limits for keys that have none of their own.
        on_refused: Called for each refusal.
        clock: Monotonic time, seconds.
    """

    def __init__(
        self,
        settings: Settings,
        on_refused: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_refused = on_refused
        self._max_streams, self._per_minute = settings.key_max_streams, settings.key_uploads_per_minute
        self._max_uploads = settings.key_max_uploads
        self._clock = clock
        self._uses: dict[str, _Use] = {}

    @contextmanager
    def stream(self, caller: Caller, channels: int) -> Iterator[None]:
        """Reserve places for a live stream.

        Raises:
            Overloaded: The key would have too many channels open.
        """
        if caller.key is None:
            yield
            return
        use = self._uses.setdefault(caller.key.id, _Use())
        limit = caller.key.max_streams or self._max_streams
        if limit is not None and use.channels + channels > limit:
            self._on_refused()
            raise Overloaded(
                f"this key may have {limit} live channels at a time, {use.channels} are open and {channels} more were "
                "requested: close one first",
                key_limit=limit,
                retry_after_s=Overloaded.retry_after_s,
            )
        use.channels += channels
        try:
            yield
        finally:
            use.channels -= channels

    @contextmanager
    def upload(self, caller: Caller) -> Iterator[None]:
        """Count an upload, and reserve one of the key's places.

        Raises:
            Overloaded: The key has too many uploads in progress, or has used up its rate limit.
        """
        if caller.key is None:
            yield
            return
        use, most = self._uses.setdefault(caller.key.id, _Use()), self._max_uploads
        if most is not None and use.uploading >= most:
            self._on_refused()
            raise Overloaded(
                f"this key may have {most} uploads at a time, and all are in progress: wait until one ends",
                key_limit=most,
                retry_after_s=Overloaded.retry_after_s,
            )
        self._count_upload(caller.key)
        use.uploading += 1
        try:
            yield
        finally:
            use.uploading -= 1

    def _count_upload(self, key: Key) -> None:
        limit = key.uploads_per_minute or self._per_minute
        if limit is None:
            return
        use, now_s = self._uses[key.id], self._clock()
        # A token bucket that holds one minute's uploads, starts full and refills evenly.
        use.uploads = min(float(limit), use.uploads + (now_s - use.at_s) * limit / MINUTE_S)
        use.at_s = now_s
        if use.uploads < 1.0:
            self._on_refused()
            wait_s = math.ceil((1.0 - use.uploads) * MINUTE_S / limit)
            raise Overloaded(
                f"this key may send {limit} uploads a minute and has used them up: try again in {wait_s} s",
                key_limit=limit,
                retry_after_s=wait_s,
            )
        use.uploads -= 1.0
