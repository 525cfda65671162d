"""The calls of one process: begins them, bounds them, ends them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextvars import Context

from speech_qc.calls.call import Call, CallLeg
from speech_qc.calls.events import CallSink
from speech_qc.calls.exchange import Exchange
from speech_qc.calls.feed import Feed
from speech_qc.calls.legs import LegFeed, LegInfo
from speech_qc.calls.ports import LegPort
from speech_qc.contract import ModelContract
from speech_qc.errors import Overloaded
from speech_qc.settings import Settings

logger = logging.getLogger("speech_qc.calls")

TICK_S = 0.5
DRAIN_STEP_S = 0.05


class Calls:
    """The calls that this process owns, and the way to those that others own; a `CallJoin`.

    Used from the event loop of its server.

    Args:
        settings: The limits.
        contract: Returns the contract of the model in use.
        sink: Takes the events of all calls.
        exchange: The way to the calls of other workers; None if this process is the only one.
        wall_clock: Returns the time of day, seconds since 1970.
    """

    def __init__(
        self,
        settings: Settings,
        contract: Callable[[], ModelContract],
        sink: CallSink,
        exchange: Exchange | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._contract, self._sink, self._wall_clock = settings, contract, sink, wall_clock
        self._calls: dict[str, Call] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._exchange = exchange
        if exchange is not None:
            exchange.own(self.take)

    def __len__(self) -> int:
        return len(self._calls)

    def join(self, info: LegInfo) -> LegFeed:
        """Add a leg to its call, beginning the call if it is the first.

        With several workers, a call belongs to the worker that was asked first; if that one refuses the leg, the leg is
        scored without its call, and the log says so.

        Raises:
            Overloaded: No room for a further call.
            ProtocolError: The call has a leg of this name already, or two others.
        """
        port: LegPort
        if self._exchange is None or info.call_id in self._calls:
            port = self.take(info)
        else:
            self._check_room(info.call_id)
            port = self._exchange.leg(info)
        return Feed(self._contract(), port)

    def take(self, info: LegInfo) -> CallLeg:
        """Add a leg to a call of this process; see `join`."""
        call = self._calls.get(info.call_id)
        if call is None:
            self._check_room(info.call_id)
            labels = [label.name for label in self._contract().labels]
            call = self._calls[info.call_id] = Call(info, labels, self._sink, self._wall_clock())
        leg = call.join(info)
        if self._timer is None:
            # In a context of its own, or log lines of all calls would carry the id of the stream that comes first.
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick, context=Context())
        return leg

    async def drain(self, wait_s: float) -> None:
        """End all calls, after the legs of other workers have ended, or this time has passed."""
        if self._exchange is not None:
            self._exchange.flush()
            for _ in range(round(wait_s / DRAIN_STEP_S)):
                if not any(leg.open for call in self._calls.values() for leg in call.legs):
                    break
                await asyncio.sleep(DRAIN_STEP_S)
        self.close()

    def close(self) -> None:
        """End all calls; the legs that others still send change nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for call in list(self._calls.values()):
            self._end(call)

    def _check_room(self, call_id: str) -> None:
        most = self._settings.calls_limit
        if call_id in self._calls:
            return
        if len(self._calls) >= most:  # a call that only waits for another leg gives way
            waiting = [call for call in self._calls.values() if call.idle_since_s is not None]
            if waiting:
                self._end(min(waiting, key=lambda call: call.idle_since_s or 0.0))
        if len(self._calls) >= most:
            raise Overloaded(
                f"expected at most {most} calls at the same time, got one more: try again later, or another server",
                max_calls=most,
                retry_after_s=Overloaded.retry_after_s,
            )

    def _tick(self) -> None:
        """Go on without legs that stall; end calls that are over or too long."""
        now_s = time.monotonic()
        for call in list(self._calls.values()):
            try:
                call.tick()
                idle_s = 0.0 if call.idle_since_s is None else now_s - call.idle_since_s
                over = call.idle_since_s is not None and (call.complete or idle_s >= self._settings.call_wait_s)
                if over or call.age_s >= self._settings.call_max_s:
                    self._end(call)
            except Exception:  # one call must not stop the others
                logger.exception("a call failed and was dropped id=%s", call.call_id)
                self._forget(call)
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick) if self._calls else None

    def _end(self, call: Call) -> None:
        call.end()
        self._forget(call)
        logger.info("call ended after %.1f s id=%s", call.length_s, call.call_id)

    def _forget(self, call: Call) -> None:
        self._calls.pop(call.call_id, None)
        if self._exchange is not None:
            self._exchange.release(call.call_id)
