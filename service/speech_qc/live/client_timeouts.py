"""Ends a live stream whose client has stopped sending or reading."""

from __future__ import annotations

import asyncio
import time

from speech_qc.errors import Overloaded, ProtocolError
from speech_qc.live.intake import Intake
from speech_qc.live.outbox import Outbox
from speech_qc.settings import Settings


class ClientTimeouts:
    """Checks one client from `start` to `stop`, a few times per time-out; costs nothing per message.

    Args:
        settings: The time-outs.
        intake: Knows when the last message arrived; takes the error.
        outbox: Knows since when a message is being sent.
    """

    def __init__(self, settings: Settings, intake: Intake, outbox: Outbox) -> None:
        self._idle_s, self._send_s = settings.stream_idle_s, settings.stream_send_timeout_s
        self._intake, self._outbox = intake, outbox
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Check now and from now on, until the first error."""
        now_s, since = time.monotonic(), self._intake.listening_since
        if self.is_stuck(now_s):
            self._intake.end_with(Overloaded(
                f"expected the client to read, it accepted no message for {self._send_s:g} s: read while you send",
                unread_s=self._send_s,
                retry_after_s=Overloaded.retry_after_s,
            ))  # fmt: skip
        elif since is not None and now_s - since > self._idle_s:
            self._intake.end_with(ProtocolError(
                f"expected audio or KeepAlive at least every {self._idle_s:g} s, got none: send KeepAlive every "
                f"{self._idle_s / 3:.3g} s while there is no audio, and CloseStream at the end",
                idle_s=self._idle_s,
            ))  # fmt: skip
        else:
            pause_s = min(self._idle_s, self._send_s, 4.0) / 4
            self._timer = asyncio.get_running_loop().call_later(pause_s, self.start)

    def stop(self) -> None:
        """Check no more."""
        if self._timer is not None:
            self._timer.cancel()

    def is_stuck(self, now_s: float) -> bool:
        """Whether the client has not accepted a message for too long."""
        since = self._outbox.sending_since
        return since is not None and now_s - since > self._send_s
