"""One socket of a phone system from its first message to the end of its legs.

Text and binary messages go from the socket's parser to the legs without a task in between while there is room, as on
`/v1/stream`. Unlike there, a connection that is lost is the usual end of a call: its legs end with the audio so far,
and the call waits a moment for them to come back.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from speech_qc.calls.legs import LegInfo
from speech_qc.errors import Draining, Overloaded, PayloadTooLarge, ProtocolError, SpeechQCError
from speech_qc.event_fields import event_fields
from speech_qc.live.outbox import Outbox
from speech_qc.live.socket import ClientGone
from speech_qc.model.reload import Generation
from speech_qc.pipeline.channel_scores import Update
from speech_qc.security.caller import Caller
from speech_qc.state import AppState
from speech_qc.telephony.leg import Leg, Scoring
from speech_qc.telephony.masking import mask_digits, mask_facts
from speech_qc.telephony.messages import (
    Audio,
    Ignored,
    Item,
    Keys,
    LegFormat,
    Pause,
    Reply,
    Started,
    Stopped,
    VendorProtocol,
)
from speech_qc.telephony.refusal import part
from speech_qc.telephony.transport import CallTransport
from speech_qc.wire.close import NORMAL_CLOSE, close_reason

logger = logging.getLogger("speech_qc.telephony")

MAX_LEGS = 8
"""Legs of one socket."""

RETRY_S = 5.0
"""Time after which a leg that found no free place may look for one again."""

MAX_KEYS = 64
"""Keys in one message."""

SCORES_FRAMES = 50
"""A vendor that takes scores gets their means once a second."""


class CallSocket:
    """One socket of a phone system; `run` it once.

    Args:
        transport: The open connection.
        protocol: Reads its messages.
        state: Parts of the server.
        generation: The model to use.
        caller: Who opened it.
        identity: For logs.
    """

    def __init__(
        self,
        transport: CallTransport,
        protocol: VendorProtocol,
        state: AppState,
        generation: Generation,
        caller: Caller,
        identity: str,
    ) -> None:
        self._transport, self._protocol, self._state = transport, protocol, state
        self._generation, self._caller, self._identity = generation, caller, identity
        self._outbox = Outbox(state.settings.stream_send_queue_bytes, time.monotonic, transport.send_now)
        self._started: Started | None = None
        self._legs: dict[str, Leg] = {}
        self._refused: dict[str, tuple[LegFormat, float]] = {}  # legs that are not scored, and when to try again
        self._places = ExitStack()
        self._means: dict[str, tuple[np.ndarray[Any, Any], int]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._last_s = time.monotonic()
        self._listening = False
        self._over = asyncio.Event()
        self._error: SpeechQCError | None = None
        self._receiver: asyncio.Task[None] | None = None
        self._gone = False  # the peer has disconnected
        self._stopped = False  # the peer has said that the call is over

    async def run(self, first: Sequence[bytes | str] = ()) -> str:
        """Serve the call until it ends.

        Args:
            first: Messages that were received already.

        Returns:
            `ok`, or the code of the error that ended it.
        """
        metrics = self._state.metrics
        metrics.telephony_active.inc()
        sender = asyncio.create_task(self._outbox.run(self._transport.send))
        self._receiver = asyncio.create_task(self._receive(first))
        over = asyncio.create_task(self._over.wait())
        self._check_idle()
        try:
            await asyncio.wait({self._receiver, over, sender}, return_when=asyncio.FIRST_COMPLETED)
            if self._receiver.done() and (fault := self._receiver.exception()) is not None:
                logger.error("unexpected error id=%s", self._identity, exc_info=fault)
                self._fail(SpeechQCError("unexpected server error: the log has the details under this id"))
            self._stop_listening()
            await self._end_legs()
            await self._close(sender)
        finally:
            self._stop_listening()
            for task in (self._receiver, sender, over):
                task.cancel()
            await asyncio.wait({self._receiver, sender, over})
            for task in (self._receiver, sender):
                if not task.cancelled():
                    task.exception()
            for leg in self._legs.values():
                leg.close()
                self._state.streams.remove(leg)
                leg.on_drain = None
            self._places.close()
            metrics.telephony_active.dec()
            if self._error is not None:
                metrics.telephony_failures.labels(self._protocol.name).inc()
        legs, self._receiver = len(self._legs), None
        self._legs.clear()  # they refer to this object
        outcome, why = "ok", ""  # phone systems show no reason of a close: the log has it
        if self._error is not None:
            outcome, why = self._error.code, f": {self._error}"
        metrics.telephony_ended.labels(outcome).inc()
        logger.info("call from %s: %s, %d legs id=%s%s", self._protocol.name, outcome, legs, self._identity, why)
        return outcome

    def drain(self) -> None:
        """End the call's legs with what was heard, because the server is shutting down."""
        self._fail(Draining("the server is shutting down: the results cover what was heard by then"))

    # -- receiving ----------------------------------------------------------------------------------------------------

    async def _receive(self, first: Sequence[bytes | str]) -> None:
        for message in first:
            await self._take_waiting(message)
        self._transport.tap(self._take_binary_now)
        self._transport.tap_text(self._take_text_now)
        while not self._over.is_set():
            self._listening = True
            message_or_none = await self._transport.receive()
            self._listening = False
            if message_or_none is None:
                self._gone = True
                return
            await self._take_waiting(message_or_none)

    async def _take_waiting(self, message: bytes | str) -> None:
        """Take a message, then wait until there is room for the next."""
        if isinstance(message, str):
            self._take(message.encode(), is_text=True)
        else:
            self._take(message, is_text=False)
        for leg in list(self._legs.values()):
            await leg.wait_for_room()

    def _take_text_now(self, message: bytes) -> bool:
        return self._take_now(message, is_text=True)

    def _take_binary_now(self, message: bytes) -> bool:
        return self._take_now(message, is_text=False)

    def _take_now(self, message: bytes, *, is_text: bool) -> bool:
        """Take a message on arrival if nothing has to wait; return whether it was taken."""
        if not self._listening or not all(leg.has_room for leg in self._legs.values()):
            return False
        self._take(message, is_text=is_text)
        return True

    def _take(self, message: bytes, *, is_text: bool) -> None:
        if self._over.is_set():
            return
        self._last_s = time.monotonic()
        try:
            if len(message) > self._state.settings.stream_max_message_bytes:
                raise PayloadTooLarge(
                    f"expected messages of at most {self._state.settings.stream_max_message_bytes} bytes, got "
                    f"{len(message)}: send smaller ones"
                )
            items = self._protocol.text(message) if is_text else self._protocol.binary(message)
            for item in items:
                self._apply(item)
        except SpeechQCError as error:
            self._fail(error)
        except Exception:
            logger.exception("unexpected error id=%s", self._identity)
            self._fail(SpeechQCError("unexpected server error: the log has the details under this id"))

    def _apply(self, item: Item) -> None:
        now_s = self._last_s
        if isinstance(item, Audio):
            leg = self._legs.get(item.leg) or self._try_again(item.leg)
            if leg is None:
                self._ignore()
                return
            leg.take(item, now_s)
            failure = leg.failed
            if failure is not None:
                raise failure if isinstance(failure, SpeechQCError) else SpeechQCError("scoring failed")
            self._await_due(leg, now_s)
        elif isinstance(item, Started):
            self._start(item)
        elif isinstance(item, Reply):
            if self._outbox.full:
                raise Overloaded("expected the peer to read its answers, it does not: read while you send")
            self._outbox.force(item.text)
        elif isinstance(item, Keys):
            self._keys(item)
        elif isinstance(item, Pause):
            for leg in self._legs.values():
                leg.pause(item.seconds, item.kind, now_s)
        elif isinstance(item, Stopped):
            self._stopped = True
            self._over.set()
        elif isinstance(item, Ignored):
            self._ignore()

    def _ignore(self) -> None:
        self._state.metrics.telephony_ignored.labels(self._protocol.name).inc()

    def _start(self, started: Started) -> None:
        """Begin the call, or add legs to it.

        Raises:
            SpeechQCError: A leg that the call begins with cannot be opened.
        """
        first = self._started is None
        self._started = self._started or started
        if first:
            self._state.metrics.telephony_sockets.labels(self._protocol.name).inc()
        for form in started.legs:
            if form.leg in self._legs or form.leg in self._refused:
                continue
            if first:
                self._open_leg(form, started)
            else:
                self._add_leg(form, self._started)

    def _add_leg(self, form: LegFormat, started: Started) -> None:
        """Add a leg to a call that goes on; if it is refused, the others are scored all the same."""
        try:
            self._open_leg(form, started)
        except SpeechQCError as error:
            if form.leg not in self._refused:
                logger.warning(
                    "leg %s is not scored, the others of its call are: %s id=%s", form.leg, error, self._identity
                )
            wait_s = RETRY_S if isinstance(error, Overloaded) else math.inf
            self._refused[form.leg] = form, self._last_s + wait_s

    def _try_again(self, name: str) -> Leg | None:
        """Return a leg that was refused and has found a place now; None if it has not.

        Raises:
            ProtocolError: There is no such leg.
        """
        if name not in self._refused or self._started is None:
            raise ProtocolError(f"expected audio of {', '.join(self._legs) or 'no leg yet'}, got {name[:40]!r}")
        form, due_s = self._refused[name]
        if due_s <= self._last_s:
            self._add_leg(form, self._started)
        leg = self._legs.get(name)
        if leg is not None:
            del self._refused[name]
            logger.info("leg %s is scored from now on id=%s", name, self._identity)
        return leg

    def _open_leg(self, form: LegFormat, started: Started) -> None:
        """Open a leg; nothing of it is left if that fails."""
        state, name = self._state, started.profile or self._state.settings.default_profile
        profile = state.profiles.get(name)
        if len(self._legs) >= MAX_LEGS:
            raise ProtocolError(f"expected at most {MAX_LEGS} legs on one socket, got more: open another one")
        state.streams.check(1)
        info = LegInfo(
            call_id=started.call_id,
            leg=form.called or form.leg,
            vendor=self._protocol.name,
            sample_rate_hz=form.rate_hz,
            trunk=started.trunk,
            name=started.name,
            metadata=mask_facts(started.metadata, state.settings),
        )
        scoring = Scoring(self._generation, state, profile, name)
        protocol = self._protocol
        with ExitStack() as place:
            place.enter_context(state.quotas.stream(self._caller, 1))
            leg = Leg(
                form, info, scoring, state.calls, clock=protocol.clock, ordered=protocol.ordered,
                on_update=self._updated,
            )  # fmt: skip
            self._places.push(place.pop_all())
        leg.on_drain = self.drain
        self._legs[form.leg] = leg
        state.streams.add(leg, 1)
        state.metrics.telephony_legs.labels(self._protocol.name).inc()

    def _keys(self, keys: Keys) -> None:
        legs = [self._legs[keys.leg]] if keys.leg in self._legs else list(self._legs.values())[:1]
        digits = mask_digits(keys.digits[:MAX_KEYS], self._state.settings)
        for leg in legs if digits else []:
            leg.digits(digits)

    def _await_due(self, leg: Leg, now_s: float) -> None:
        """Look again when audio that waits for its place is due."""
        if leg.due_s is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(max(0.01, leg.due_s - now_s), self._expire)

    def _expire(self) -> None:
        self._timer = None
        now_s = time.monotonic()
        try:
            for leg in self._legs.values():
                leg.expire(now_s)
                self._await_due(leg, now_s)
        except SpeechQCError as error:
            self._fail(error)

    def _check_idle(self) -> None:
        """End a call that has sent nothing for too long."""
        idle_s = self._state.settings.telephony_idle_s
        left_s = self._last_s + idle_s - time.monotonic()
        if left_s <= 0:
            self._fail(ProtocolError(f"expected a message at least every {idle_s:g} s, got none", idle_s=idle_s))
            return
        self._idle = asyncio.get_running_loop().call_later(left_s, self._check_idle)

    # -- sending ------------------------------------------------------------------------------------------------------

    def _updated(self, name: str, update: Update) -> None:
        """Send events and the means of scores to a vendor that takes them."""
        if not self._protocol.takes_events or not self._state.settings.telephony_events:
            return
        for news in update.events:
            fields = {name: _plain(value) for name, value in event_fields(news.event).items()}
            self._send_event({"type": "event", "phase": news.phase, "leg": name, **fields})
        scores = update.scores
        if not len(scores):
            return
        known = ~np.isnan(scores)
        total, frames = self._means.get(name, (np.zeros((2, scores.shape[1])), 0))
        total = total + np.stack((np.where(known, scores, 0.0).sum(axis=0), known.sum(axis=0)))
        frames += len(scores)
        if frames >= SCORES_FRAMES:
            labels = self._generation.contract.label_names
            means = [round(float(s / n), 4) if n else None for s, n in total.T]
            body = {"type": "scores", "leg": name, "stop_s": round(update.stop_frame * 0.02, 3)}
            self._send_event(body | {"means": dict(zip(labels, means, strict=True))})
            total, frames = np.zeros_like(total), 0
        self._means[name] = (total, frames)

    def _send_event(self, body: Mapping[str, Any]) -> None:
        text = self._protocol.event(body)
        if text is not None and not self._outbox.full:  # a peer that does not read loses events, never its call
            self._outbox.force(text)

    # -- endings ------------------------------------------------------------------------------------------------------

    def _fail(self, error: SpeechQCError) -> None:
        if not self._over.is_set():
            self._error = error.with_traceback(None)  # its frames reference this object, which references the error
            self._over.set()

    def _stop_listening(self) -> None:
        self._listening = False
        self._transport.tap(None)
        self._transport.tap_text(None)
        for timer in (self._timer, self._idle):
            if timer is not None:
                timer.cancel()
        self._timer = self._idle = None
        if self._receiver is not None:
            self._receiver.cancel()

    async def _end_legs(self) -> None:
        """End all legs; those of one call together, so that the call ends once."""
        if self._legs:
            await asyncio.gather(*(leg.end(regular=self._stopped) for leg in self._legs.values()))

    async def _close(self, sender: asyncio.Task[None]) -> None:
        """Say why, if the vendor understands it, and close."""
        code, reason = NORMAL_CLOSE, ""
        if self._error is not None:
            for text in self._protocol.refusal(self._error):
                self._outbox.force(text)
            code, reason = self._error.ws_close, close_reason(self._error)
        self._outbox.close()
        timeout_s = self._state.settings.stream_send_timeout_s
        await asyncio.wait({sender}, timeout=timeout_s)
        if not sender.done():
            self._transport.abort()
            return
        try:
            if self._error is not None and not self._gone:
                await part(self._transport, self._protocol)
            async with asyncio.timeout(timeout_s):
                await self._transport.close(code, reason)
        except TimeoutError:
            self._transport.abort()
        except ClientGone:
            return


def _plain(value: Any) -> Any:
    return value.model_dump() if hasattr(value, "model_dump") else value
