"""Brings the legs of a call together when several workers took them.

A call belongs to the worker that claimed it first; the parent process knows which one that is. The others send it their
legs' records, in batches, through the parent. No audio at full bandwidth leaves a worker, and a call whose legs came to
one worker costs one question to the parent.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, Protocol

from speech_qc.calls.legs import LegInfo
from speech_qc.calls.ports import LegPort
from speech_qc.calls.records import AnyRecord, GapRecord, LegRecord
from speech_qc.errors import SpeechQCError

logger = logging.getLogger("speech_qc.calls")

BATCH_S = 0.1
"""Time for which what legs say is collected, so that hundreds of legs need few messages."""
BATCH_BYTES = 1024 * 1024
"""Size of a message to another worker, unless one item is larger: when many legs end together, their documents would
exceed the limit of the channel, and their workers would do nothing else for as long as they write and read them."""
ITEM_BYTES = 8 * 1024 * 1024
"""Largest item: a document of 50 000 events, five times as many as the default of `SPEECHQC_MAX_EVENTS`."""
MAX_PENDING = 2_000
"""What a leg says while it is unknown who owns its call; a question takes milliseconds."""

Item = dict[str, Any]


class Post(Protocol):
    """The way to the parent process and to the other workers."""

    worker: int

    def offer_calls(self, take: Callable[[int, list[Item]], None], gone: Callable[[int], None]) -> None:
        """Set what takes the items of another worker, and what is told that a worker has exited."""

    def claim_call(self, call_id: str) -> Awaitable[int]:
        """Return the worker that owns a call: this one, if none does yet. Raises ConnectionError, TimeoutError."""

    def release_call(self, call_id: str) -> None:
        """Say that a call of this worker has ended."""

    def send_legs(self, worker: int, items: list[Item]) -> None:
        """Send items to another worker."""


class Exchange:
    """This worker's legs of calls that others own, and others' legs of calls that it owns."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._take: Callable[[LegInfo], LegPort] | None = None
        self._sent: dict[str, _Leg] = {}  # our legs of others' calls, or of unknown ones
        self._taken: dict[tuple[int, str], LegPort] = {}  # others' legs of our calls
        self._failed: set[tuple[int, str]] = set()  # those of them whose analysis has failed
        self._boxes: defaultdict[int, list[Item]] = defaultdict(list)
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._count = 0
        post.offer_calls(self._receive, self._gone)

    def own(self, take: Callable[[LegInfo], LegPort]) -> None:
        """Set what adds a leg to a call of this worker."""
        self._take = take

    def leg(self, info: LegInfo) -> LegPort:
        """Return a leg of a call that this worker does not know."""
        self._count += 1
        leg = _Leg(f"{self._post.worker}-{self._count}", info, self)
        self._sent[leg.key] = leg
        self.find(leg)
        return leg

    def find(self, leg: _Leg) -> None:
        """Find out who owns a leg's call."""
        task = asyncio.get_running_loop().create_task(self._find(leg))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def release(self, call_id: str) -> None:
        """Say that a call of this worker has ended."""
        self._post.release_call(call_id)

    def send(self, worker: int, item: Item) -> None:
        """Send an item with the next batch."""
        self._boxes[worker].append(item)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(BATCH_S, self.flush)

    def flush(self) -> None:
        """Send what has been collected."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        boxes, self._boxes = self._boxes, defaultdict(list)
        for worker, items in boxes.items():
            for batch in _batches(items):
                self._post.send_legs(worker, batch)

    def forget(self, key: str) -> None:
        """Forget a leg of ours that has ended."""
        self._sent.pop(key, None)

    async def _find(self, leg: _Leg) -> None:
        try:
            owner = await self._post.claim_call(leg.info.call_id)
        except (ConnectionError, TimeoutError) as error:
            leg.refuse(f"the parent process does not answer: {error}")
            return
        if owner != self._post.worker:
            leg.route(partial(self.send, owner), owner)
            return
        self.forget(leg.key)
        try:
            leg.settle(self._here(leg.info))
        except SpeechQCError as error:
            leg.refuse(error.message)

    def _here(self, info: LegInfo) -> LegPort:
        if self._take is None:
            raise RuntimeError("own() was not called")
        return self._take(info)

    def _receive(self, sender: int, items: list[Item]) -> None:
        """Take items of another worker."""
        for item in items:
            key, kind = item["key"], item["kind"]
            if kind == "refused":
                leg = self._sent.pop(key, None)
                if leg is not None:
                    leg.refuse(item["message"])
            elif kind == "join":
                self._join(sender, key, LegInfo(**item["info"]))
            elif (sender, key) in self._taken:
                self._pass_on((sender, key), kind, item)

    def _pass_on(self, place: tuple[int, str], kind: str, item: Item) -> None:
        """Pass on what another worker's leg says; a fault must not cost what the other legs of the batch say."""
        try:
            _say(self._taken[place], kind, item)
        except Exception:
            if place not in self._failed:  # once, since each further record would fail, too
                logger.exception("the analysis of a call failed")
            self._failed.add(place)
        if kind == "end":
            del self._taken[place]
            self._failed.discard(place)

    def _join(self, sender: int, key: str, info: LegInfo) -> None:
        try:
            self._taken[sender, key] = self._here(info)
        except SpeechQCError as error:
            self.send(sender, {"key": key, "kind": "refused", "message": error.message})
            return
        # The call may have ended between the question and this leg, so that the parent has to be told again.
        claiming = asyncio.get_running_loop().create_task(self._claim_again(info.call_id))
        self._tasks.add(claiming)
        claiming.add_done_callback(self._tasks.discard)

    async def _claim_again(self, call_id: str) -> None:
        try:
            await self._post.claim_call(call_id)
        except (ConnectionError, TimeoutError):
            return  # the parent has exited, and so will this worker

    def _gone(self, worker: int) -> None:
        """End the legs that an exited worker sent, and find new owners for the calls that it owned."""
        for place in [place for place in self._taken if place[0] == worker]:
            self._pass_on(place, "end", {"document": None, "regular": False})
        self._boxes.pop(worker, None)
        for leg in list(self._sent.values()):
            if leg.owner == worker:
                leg.unsettle()
                self.find(leg)


class _Leg:
    """A leg of this worker whose call another worker owns, or nobody knows yet; a `LegPort`."""

    def __init__(self, key: str, info: LegInfo, exchange: Exchange) -> None:
        self.key, self.info, self._exchange = key, info, exchange
        self.owner: int | None = None
        self._port: LegPort | None = None
        self._send: Callable[[Item], None] | None = None
        self._waiting: list[tuple[str, Item]] | None = []  # None once the leg is refused
        self._heard_s: float | None = None

    def begin(self, heard_s: float) -> None:
        """Say when the first sample was taken."""
        self._heard_s = heard_s
        self._do("begin", {"heard_s": heard_s})

    def record(self, record: AnyRecord) -> None:
        """Send a record."""
        self._do("record", {"record": record})

    def event(self, phase: str, fields: Mapping[str, Any]) -> None:
        """Send an event."""
        self._do("event", {"phase": phase, "fields": dict(fields)})

    def digits(self, digits: str) -> None:
        """Send keys."""
        self._do("digits", {"digits": digits})

    def end(self, document: Mapping[str, Any] | None, regular: bool = False) -> None:
        """End the leg."""
        self._do("end", {"document": None if document is None else dict(document), "regular": regular})

    def settle(self, port: LegPort) -> None:
        """Use a call of this process from now on."""
        self._port = port
        self._say_again()

    def route(self, send: Callable[[Item], None], owner: int) -> None:
        """Use a call of another worker from now on."""
        self._send, self.owner = send, owner
        send({"key": self.key, "kind": "join", "info": asdict(self.info) | {"metadata": dict(self.info.metadata)}})
        self._say_again()

    def unsettle(self) -> None:
        """Wait for a new owner, whose call begins anew."""
        self._send, self.owner, self._waiting = None, None, []
        if self._heard_s is not None:
            self._waiting.append(("begin", {"heard_s": self._heard_s}))

    def refuse(self, message: str) -> None:
        """Go on without the call."""
        logger.warning("leg %s is scored without its call: %s id=%s", self.info.leg, message, self.info.call_id)
        self._port = self._send = self._waiting = None
        self._exchange.forget(self.key)

    def _say_again(self) -> None:
        waiting, self._waiting = self._waiting or [], []
        for kind, item in waiting:
            self._do(kind, item)

    def _do(self, kind: str, item: Item) -> None:
        if self._port is not None:
            _say(self._port, kind, item)
        elif self._send is not None:
            plain = {"record": item["record"].encode()} if kind == "record" else item
            self._send({"key": self.key, "kind": kind} | plain)
            if kind == "end":
                self._exchange.forget(self.key)
        elif self._waiting is not None:
            if len(self._waiting) >= MAX_PENDING:
                self.refuse(f"nobody owns its call after {MAX_PENDING} messages")
            else:
                self._waiting.append((kind, item))


def _say(port: LegPort, kind: str, item: Item) -> None:
    match kind:
        case "begin":
            port.begin(item["heard_s"])
        case "record":
            record = item["record"]
            if isinstance(record, Mapping):  # from another worker
                record = (GapRecord if "flag" in record else LegRecord).decode(record)
            port.record(record)
        case "event":
            port.event(item["phase"], item["fields"])
        case "digits":
            port.digits(item["digits"])
        case "end":
            port.end(item["document"], item["regular"])


def _batches(items: list[Item]) -> Iterator[list[Item]]:
    """Divide items into messages; what is too long for any is cut to size."""
    batch: list[Item] = []
    total = 0
    for item in items:
        size = len(json.dumps(item))
        if size > ITEM_BYTES and item["kind"] == "end":
            item, size = _cut(item, size)
        if batch and total + size > BATCH_BYTES:
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size
    if batch:
        yield batch


def _cut(item: Item, size: int) -> tuple[Item, int]:
    """Leave out the last events of a document, as if there had been a lower limit; return it and its size."""
    document = item["document"]
    events, dropped = document["events"], document.get("events_dropped") or 0
    kept = events
    while size > ITEM_BYTES and kept:
        kept = kept[: len(kept) // 2]
        cut = {"events": kept, "events_dropped": dropped + len(events) - len(kept)}
        item = item | {"document": document | cut}
        size = len(json.dumps(item))
    logger.warning("the call has %d of the %d events of a leg: lower SPEECHQC_MAX_EVENTS", len(kept), len(events))
    return item, size
