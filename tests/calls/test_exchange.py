"""Legs that other processes own: questions to the parent, refusals, and workers that exit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from call_records import Leg
from test_calls_registry import CONTRACT, Kept, info, send

from speech_qc.calls import exchange as exchange_module
from speech_qc.calls.exchange import Exchange, Item
from speech_qc.calls.registry import Calls
from speech_qc.settings import Settings


class Parent:
    """The parent's part: who owns a call, and items that go from one worker to another as JSON."""

    def __init__(self) -> None:
        self.owners: dict[str, int] = {}
        self.posts: list[WorkerPost] = []
        self.sizes: list[int] = []
        self.silent = False

    def worker(self, sink: Kept, **settings: Any) -> Calls:
        post = WorkerPost(self, len(self.posts))
        self.posts.append(post)
        return Calls(Settings(**settings), lambda: CONTRACT, sink, Exchange(post))

    def exit(self, worker: int) -> None:
        self.owners = {call: owner for call, owner in self.owners.items() if owner != worker}
        for post in self.posts:
            if post.worker != worker:
                post.gone(worker)


class WorkerPost:
    """One worker's way to the parent."""

    def __init__(self, parent: Parent, worker: int) -> None:
        self._parent, self.worker = parent, worker
        self.take: Callable[[int, list[Item]], None]
        self.gone: Callable[[int], None]

    def offer_calls(self, take: Callable[[int, list[Item]], None], gone: Callable[[int], None]) -> None:
        self.take, self.gone = take, gone

    async def claim_call(self, call_id: str) -> int:
        await asyncio.sleep(0.01)
        if self._parent.silent:
            raise TimeoutError("no answer")
        return self._parent.owners.setdefault(call_id, self.worker)

    def release_call(self, call_id: str) -> None:
        if self._parent.owners.get(call_id) == self.worker:
            del self._parent.owners[call_id]

    def send_legs(self, worker: int, items: list[Item]) -> None:
        text = json.dumps(items)
        self._parent.sizes.append(len(text))
        self._parent.posts[worker].take(self.worker, json.loads(text))


async def settle() -> None:
    await asyncio.sleep(0.05 + 2 * exchange_module.BATCH_S)


def legs() -> list[Leg]:
    return [Leg(12).say(1, 6), Leg(12, seed=1).say(4, 9)]


def test_legs_of_two_workers_meet_in_the_one_that_was_asked_first():
    async def run() -> tuple[Kept, Kept, dict[str, int], dict[str, int]]:
        sinks, parent = (Kept(), Kept()), Parent()
        workers = [parent.worker(sink) for sink in sinks]
        feeds = [workers[0].join(info(trunk="t1")), workers[1].join(info(leg="customer"))]
        await settle()
        during = dict(parent.owners)
        send(feeds, legs())  # type: ignore[arg-type]
        for feed in feeds:
            feed.ended({"channel": 0}, regular=True)
        await asyncio.sleep(1.0)
        return *sinks, during, parent.owners

    owner, other, during, after = asyncio.run(run())
    assert not other.events
    assert (during, after) == ({"call-1": 0}, {})
    document = owner.events[-1].data
    assert owner.events[-1].kind == "call.ended"
    assert [leg["channel"] for leg in document["legs"]] == [0, 0]
    assert document["interaction"]["events"][0]["label"] == "talk_over"


def test_a_leg_that_the_owner_refuses_is_scored_without_its_call(caplog):
    async def run() -> Kept:
        sink, parent = Kept(), Parent()
        first, second = parent.worker(sink), parent.worker(Kept())
        first.join(info())
        await settle()
        feed = second.join(info())
        await settle()
        send([feed], [Leg(2)])  # type: ignore[list-item]
        feed.ended({}, regular=True)
        await settle()
        first.close()
        return sink

    sink = asyncio.run(run())
    assert len(sink.events[-1].data["legs"]) == 1
    assert "leg agent is scored without its call" in caplog.text


def test_the_legs_of_a_worker_that_exits_end_without_their_document():
    async def run() -> Kept:
        sink, parent = Kept(), Parent()
        first, second = parent.worker(sink), parent.worker(Kept())
        first.join(info()).ended({"channel": 0}, regular=True)
        await settle()
        second.join(info(leg="customer"))
        await settle()
        parent.exit(1)
        first.close()
        return sink

    document = asyncio.run(run()).events[-1].data
    assert [leg.get("channel") for leg in document["legs"]] == [0, None]
    assert "has exited" in document["unknown"]["legs.1"]


def test_a_call_begins_anew_when_the_worker_that_owned_it_exits():
    async def run() -> Kept:
        sink, parent = Kept(), Parent()
        owner, other = parent.worker(Kept()), parent.worker(sink)
        owner.join(info())
        await settle()
        feed = other.join(info(leg="customer"))
        send([feed], [Leg(2)])  # type: ignore[list-item]
        await settle()
        parent.exit(0)
        await settle()
        feed.ended({"channel": 0}, regular=True)
        await settle()
        other.close()
        return sink

    sink = asyncio.run(run())
    assert [event.kind for event in sink.events] == ["call.started", "call.ended"]
    assert sink.events[-1].data["legs"][0]["channel"] == 0


def test_without_an_answer_of_the_parent_a_leg_is_scored_without_its_call(caplog):
    async def run() -> None:
        parent = Parent()
        worker = parent.worker(Kept())
        parent.silent = True
        feed = worker.join(info())
        await settle()
        send([feed], [Leg(2)])  # type: ignore[list-item]
        feed.ended({}, regular=True)
        assert len(worker) == 0

    asyncio.run(run())
    assert "the parent process does not answer" in caplog.text


def test_what_a_leg_says_before_its_call_is_known_is_bounded(monkeypatch, caplog):
    monkeypatch.setattr(exchange_module, "MAX_PENDING", 3)

    async def run() -> None:
        feed = Parent().worker(Kept()).join(info())
        send([feed], [Leg(4)])  # type: ignore[list-item]

    asyncio.run(run())
    assert "nobody owns its call after 3 messages" in caplog.text


def document_of(events: int) -> dict[str, Any]:
    event = {
        "label": "noise", "family": "headline", "onset_s": 1234.56, "offset_s": 1236.78, "score_max": 0.9973,
        "score_mean": 0.9878, "severity": "severe",
    }  # fmt: skip
    return {"channel": 0, "events": [event | {"event_id": number} for number in range(events)]}


def ended_documents(legs: int, events: int) -> tuple[list[int], list[dict[str, Any]]]:
    """End legs of two workers at once; return the sizes of the messages, and the documents of the second legs."""

    async def run() -> tuple[list[int], list[dict[str, Any]]]:
        sink, parent = Kept(), Parent()
        owner, other = parent.worker(sink), parent.worker(Kept())
        for number in range(legs):
            owner.join(info(call_id=f"call-{number}")).ended({"channel": 0})
        await settle()
        feeds = [other.join(info(call_id=f"call-{number}", leg="customer")) for number in range(legs)]
        await settle()
        parent.sizes.clear()
        for feed in feeds:
            feed.ended(document_of(events))
        await settle()
        owner.close()
        return parent.sizes, [event.data["legs"][1] for event in sink.events if event.kind == "call.ended"]

    return asyncio.run(run())


def test_legs_that_end_together_go_in_messages_of_a_bounded_size():
    legs, events = 4, 4_000
    sizes, documents = ended_documents(legs, events)
    assert sum(sizes) > 2 * exchange_module.BATCH_BYTES
    assert max(sizes) <= exchange_module.BATCH_BYTES + 1000
    assert [[event["event_id"] for event in document["events"]] for document in documents] == [[*range(events)]] * legs


def test_a_document_that_no_message_can_hold_has_fewer_events(monkeypatch, caplog):
    monkeypatch.setattr(exchange_module, "ITEM_BYTES", 50_000)
    sizes, (document,) = ended_documents(1, 1_000)
    assert max(sizes) < 51_000
    kept = len(document["events"])
    assert 200 < kept < 400 and document["events_dropped"] == 1_000 - kept
    assert f"the call has {kept} of the 1000 events of a leg" in caplog.text


def test_a_leg_whose_analysis_fails_does_not_cost_what_others_say(caplog):
    async def run() -> Kept:
        sink, parent = Kept(), Parent()
        owner, other = parent.worker(sink), parent.worker(Kept())
        owner.join(info()).ended({"channel": 0})
        await settle()
        other.join(info(leg="customer"))
        await settle()
        broken = {"key": "1-1", "kind": "record", "record": {}}
        parent.posts[0].take(
            1, [broken, broken, {"key": "1-1", "kind": "end", "document": {"channel": 1}, "regular": True}]
        )
        owner.close()
        return sink

    document = asyncio.run(run()).events[-1].data
    assert [leg["channel"] for leg in document["legs"]] == [0, 1]
    assert caplog.text.count("the analysis of a call failed") == 1
