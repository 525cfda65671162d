"""Calls of one process: joined by their id, bounded, ended, and told to a sink."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from call_records import Leg

from speech_qc.calls import call as call_module
from speech_qc.calls.events import CallEvent
from speech_qc.calls.feed import Feed
from speech_qc.calls.legs import LegInfo
from speech_qc.calls.registry import TICK_S, Calls
from speech_qc.engine import EchoRunner
from speech_qc.errors import Overloaded, ProtocolError
from speech_qc.settings import Settings
from speech_qc.telemetry.logging import JsonFormatter, ids
from speech_qc.wire.schemas import CallAnswer

CONTRACT = EchoRunner(2).contract
SPEECH = CONTRACT.index("speech")


class Kept:
    """A sink that keeps all events."""

    def __init__(self) -> None:
        self.events: list[CallEvent] = []

    def publish(self, event: CallEvent) -> None:
        self.events.append(event)

    def of(self, kind: str) -> list[CallEvent]:
        return [event for event in self.events if event.kind == kind]


def info(call_id: str = "call-1", leg: str = "agent", **facts: str) -> LegInfo:
    return LegInfo(call_id=call_id, leg=leg, vendor="stream", sample_rate_hz=8000, **facts)  # type: ignore[arg-type]


def made(sink: Kept, **settings: Any) -> Calls:
    return Calls(Settings(**settings), lambda: CONTRACT, sink)


def send(feeds: list[Feed], legs: list[Leg]) -> None:
    """Send whole legs at once, half a second of each in turn."""
    for second in range(0, legs[0].frames, 25):
        for feed, leg in zip(feeds, legs, strict=True):
            low = np.repeat(leg.sound[second * 80 : (second + 25) * 80], 4)
            scores = np.zeros((len(low) // 320, len(CONTRACT.labels)), np.float32)
            scores[:, SPEECH] = leg.flags[second : second + len(scores)] & 1
            feed.heard(second * 320, low)
            feed.scored(second, scores, [])


async def until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end_s, "it takes too long"
        await asyncio.sleep(0.02)


def test_two_legs_make_a_call_that_tells_what_happens_and_ends_with_its_document():
    async def run() -> Kept:
        sink = Kept()
        calls = made(sink)
        feeds = [calls.join(info(leg="agent", trunk="a1", name="Support")), calls.join(info(leg="customer"))]
        send(feeds, [Leg(12).say(1, 6), Leg(12, seed=1).say(4, 9)])  # type: ignore[arg-type]
        feeds[0].digits(0, "**")
        for feed in feeds:
            feed.ended({"channel": 0}, regular=True)
            feed.ended({"channel": 1}, regular=True)
        await until(lambda: len(calls) == 0)
        return sink

    sink = asyncio.run(run())
    assert [event.kind for event in sink.events if "event" not in event.kind and event.kind != "scores"] == [
        "call.started",
        "call.ended",
    ]
    assert {(event.call_id, event.trunk, event.vendor) for event in sink.events} == {("call-1", "a1", "stream")}
    document = sink.events[-1].data
    CallAnswer.model_validate(document)
    assert (document["state"], document["name"], document["trunk"]) == ("ended", "Support", "a1")
    assert [(leg["role"], leg["channel"], leg["digits"]) for leg in document["legs"]] == [
        ("agent", 0, "**"),
        ("customer", 0, ""),
    ]
    (event,) = [event for event in document["interaction"]["events"] if event["label"] == "talk_over"]
    assert event["leg"] == "customer"
    begin = sink.of("event.begin")[0].data
    assert (begin["source"], begin["leg"], begin["label"]) == ("interaction", "customer", "talk_over")
    assert begin["offset_s"] is None
    scores = sink.of("scores")
    assert len(scores) == 12
    assert min(leg["offset_s"] for leg in document["legs"]) == 0, "the clock begins with the first sample"
    assert scores[2].data["legs"]["agent"]["speech"] > 0.9
    assert set(scores[2].data["legs"]) == {"agent", "customer"}


def test_a_call_of_one_leg_waits_for_another_and_says_why_there_is_no_interaction():
    async def run() -> Kept:
        sink = Kept()
        calls = made(sink, call_wait_s=0.7)
        calls.join(info()).ended({}, regular=True)
        await asyncio.sleep(0.4)
        calls.join(info(leg="customer")).ended({}, regular=True)
        await until(lambda: len(calls) == 0)
        calls.join(info("call-2")).ended({}, regular=True)
        await until(lambda: len(calls) == 0)
        return sink

    first, second = [event.data for event in asyncio.run(run()).of("call.ended")]
    assert len(first["legs"]) == 2
    assert second["interaction"] is None
    assert second["unknown"]["interaction"] == "the call had one leg"
    for document in (first, second):
        assert document["ended_at"] == max(leg["ended_at"] for leg in document["legs"]), "the wait is no part of it"


def test_a_leg_that_comes_back_is_put_on_the_clock_of_the_call():
    async def run() -> dict[str, Any]:
        sink = Kept()
        calls = made(sink)
        calls.join(info(leg="customer"))
        calls.join(info()).ended({}, regular=True)
        calls.join(info()).ended({}, regular=True)
        calls.close()
        return dict(sink.events[-1].data)

    document = asyncio.run(run())
    assert [leg["role"] for leg in document["legs"]] == ["customer", "agent", "agent"]
    assert document["unknown"]["legs.0"]


def test_a_call_waits_for_legs_whose_connections_were_lost_and_goes_on_with_them():
    """Both legs were on one socket, or a server in front of this one was restarted."""

    async def run() -> Kept:
        sink = Kept()
        calls = made(sink, call_wait_s=4.0)
        names = ("agent", "customer")
        for feed in [calls.join(info(leg=leg)) for leg in names]:
            feed.ended({"duration_s": 1800.0}, regular=False)
        await asyncio.sleep(2.2 * TICK_S)
        assert len(calls) == 1, "it does not end at once"
        back = [calls.join(info(leg=leg)) for leg in names]
        back[0].ended({"duration_s": 60.0}, regular=True)
        back[1].ended({"duration_s": 60.0}, regular=False)
        await asyncio.sleep(2.2 * TICK_S)
        calls.join(info(leg="customer")).ended({"duration_s": 1.0}, regular=True)
        lost_s = time.monotonic()
        await until(lambda: len(calls) == 0)
        assert time.monotonic() - lost_s < 3.0, "no leg is missing, so the call ends at once"
        return sink

    sink = asyncio.run(run())
    assert [event.kind for event in sink.events] == ["call.started", "call.ended"]
    legs = sink.events[-1].data["legs"]
    assert [leg["role"] for leg in legs] == ["agent", "customer", "agent", "customer", "customer"]
    assert [leg["duration_s"] for leg in legs] == [1800.0, 1800.0, 60.0, 60.0, 1.0]


def test_a_call_that_begins_anew_has_a_document_of_its_own():
    async def run() -> Kept:
        sink = Kept()
        calls = made(sink, call_max_s=0.2)
        for _ in range(2):
            feed = calls.join(info())
            await until(lambda: len(calls) == 0)
            feed.ended({}, regular=False)
        return sink

    sink = asyncio.run(run())
    assert [event.kind for event in sink.events] == ["call.started", "call.ended"] * 2
    first, second = ({event.document_id for event in part} for part in (sink.events[:2], sink.events[2:]))
    assert len(first) == len(second) == 1 and first != second
    assert {event.data["document_id"] for event in sink.events} == first | second


def test_names_and_numbers_are_bounded(monkeypatch):
    async def run() -> None:
        calls = made(Kept(), max_calls=1)
        calls.join(info())
        with pytest.raises(ProtocolError, match="a name that no other leg"):
            calls.join(info())
        calls.join(info(leg="customer")).ended({}, regular=True)
        with pytest.raises(Overloaded, match="at most 1 calls"):
            calls.join(info("call-2"))
        monkeypatch.setattr(call_module, "MAX_JOINS", 3)
        calls.join(info(leg="customer")).ended({}, regular=True)
        with pytest.raises(ProtocolError, match="at most 3 legs"):
            calls.join(info(leg="customer"))
        calls.close()
        calls.join(info("call-2"))
        calls.close()

    asyncio.run(run())


def test_further_legs_are_scored_but_not_compared():
    async def run() -> dict[str, Any]:
        sink = Kept()
        calls = made(sink)
        for channel, leg in enumerate(("agent", "customer", "supervisor")):
            calls.join(info(leg=leg)).ended({"channel": channel}, regular=True)
        calls.close()
        return dict(sink.events[-1].data)

    document = asyncio.run(run())
    assert [(leg["role"], leg["channel"]) for leg in document["legs"]][2] == ("supervisor", 2)
    assert [leg["role"] for leg in document["interaction"]["legs"]] == ["agent", "customer"]
    assert document["unknown"]["interaction.legs"] == "only the first two legs are compared"


def test_the_longest_call_ends_while_its_legs_go_on():
    async def run() -> tuple[Kept, int]:
        sink = Kept()
        calls = made(sink, call_max_s=0.2)
        feed = calls.join(info())
        await until(lambda: len(calls) == 0)
        told = len(sink.events)
        send([feed], [Leg(3).say(1, 2)])  # type: ignore[list-item]
        feed.ended({}, regular=True)
        return sink, told

    sink, told = asyncio.run(run())
    assert sink.events[-1].kind == "call.ended"
    assert len(sink.events) == told


def test_a_leg_that_stalls_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(call_module, "NO_AUDIO_S", 0.1)

    async def run() -> Kept:
        sink = Kept()
        calls = made(sink)
        feeds = [calls.join(info()), calls.join(info(leg="customer"))]
        send([feeds[0]], [Leg(8).say(1, 7.9)])  # type: ignore[list-item]
        await until(lambda: bool(sink.of("event.begin")))
        calls.close()
        return sink

    begin = asyncio.run(run()).of("event.begin")[0].data
    assert (begin["label"], begin["leg"]) == ("one_way_audio", "customer")


def test_a_sink_sees_nothing_of_a_call_that_has_no_audio_but_its_begin_and_end():
    async def run() -> Kept:
        sink = Kept()
        calls = made(sink)
        calls.join(info())
        calls.close()
        return sink

    assert [event.kind for event in asyncio.run(run()).events] == ["call.started", "call.ended"]


def test_a_fault_of_the_analysis_does_not_reach_the_stream_and_is_logged_once(monkeypatch, caplog):
    def fail(*_: object) -> None:
        raise ValueError("broken")

    async def run() -> Kept:
        sink = Kept()
        calls = made(sink)
        feed = calls.join(info())
        monkeypatch.setattr("speech_qc.calls.interaction.Interaction.advance", fail)
        send([feed], [Leg(3).say(1, 2)])  # type: ignore[list-item]
        monkeypatch.undo()
        feed.ended({"channel": 0}, regular=True)
        calls.close()
        return sink

    sink = asyncio.run(run())
    assert caplog.text.count("the analysis of a call failed") == 1
    assert sink.events[-1].data["legs"][0]["channel"] == 0


def test_a_call_of_any_length_takes_the_memory_that_the_settings_say():
    async def run() -> int:
        calls = made(Kept())
        feeds = [calls.join(info()), calls.join(info(leg="customer"))]
        send(feeds, legs := [Leg(12).say(1, 6), Leg(12, seed=1).say(4, 9)])  # type: ignore[arg-type]
        tracemalloc.start()
        for number in range(10):
            pair = [calls.join(info(f"c{number}")), calls.join(info(f"c{number}", "customer"))]
            send(pair, legs)  # type: ignore[arg-type]
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        calls.close()
        return used // 10

    used = asyncio.run(run())
    assert 100_000 < used < 500_000, f"{used} bytes for a call"


def test_a_call_that_only_waits_for_another_leg_gives_way():
    async def run() -> Kept:
        sink = Kept()
        calls = made(sink, max_calls=2)
        calls.join(info("c1"))
        calls.join(info("c2")).ended({}, regular=True)
        calls.join(info("c3"))
        with pytest.raises(Overloaded):
            calls.join(info("c4"))
        calls.close()
        return sink

    assert [event.call_id for event in asyncio.run(run()).of("call.ended")] == ["c2", "c1", "c3"]


def test_log_lines_of_a_call_do_not_carry_the_id_of_the_stream_that_came_first(caplog):
    seen: list[dict[str, str]] = []

    class Seen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            line = json.loads(JsonFormatter().format(record))
            seen.append({name: line.get(name, "") for name in ("event", "session_id")})

    async def run() -> None:
        calls = made(Kept(), call_wait_s=0.0)
        with ids(session_id="first"):
            feed = calls.join(info("call-1"))
        feed.ended({}, regular=True)
        await until(lambda: len(calls) == 0)

    handler = Seen()
    logger = logging.getLogger("speech_qc.calls")
    logger.addHandler(handler)
    try:
        with caplog.at_level(logging.INFO, "speech_qc.calls"):
            asyncio.run(run())
    finally:
        logger.removeHandler(handler)
    (line,) = seen
    assert line["event"].endswith("id=call-1")
    assert line["session_id"] == ""
