"""Sessions, slots, results and arguments of the engine; its seven rules are in test_engine_rules.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from engine_doubles import (
    FLUSH,
    LANES,
    LIVE,
    UPLOAD,
    GatedRunner,
    ManualClock,
    RecordingObserver,
    chunk,
    outcome,
    plain_front_end,
    run,
    running,
)

from speech_qc.engine import EchoRunner, Engine, Lane, Stepper
from speech_qc.engine.entry import StepResult
from speech_qc.engine.step import batch_buckets
from speech_qc.errors import InvalidAudio, Overloaded

TONE = EchoRunner().contract.index("tone")  # position in the stream, from the state


def position(scores: np.ndarray) -> float:
    return round(float(scores[0, TONE]) * 100)


def test_sessions_beyond_capacity_are_refused_until_one_closes() -> None:
    async def test() -> None:
        observer = RecordingObserver()
        async with running(capacity=2, observer=observer) as engine:
            first, _ = engine.open_session(), engine.open_session()
            with pytest.raises(Overloaded, match="all 2 places"):
                engine.open_session()
            assert engine.status.sessions == 2
            engine.close_session(first)
            engine.open_session()
        assert observer.refusals == ["sessions"]

    run(test())


def test_a_reused_slot_starts_from_zero() -> None:
    async def test() -> None:
        async with running(capacity=1) as engine:
            old = engine.open_session()
            await engine.submit(old, chunk(0.0), "live")
            assert position((await engine.submit(old, chunk(0.0), "live")).scores) == 5
            engine.close_session(old)
            new = engine.open_session()
            assert position((await engine.submit(new, chunk(0.0), "live")).scores) == 0

    run(test())


def test_a_slot_in_a_running_step_is_reused_only_after_it() -> None:
    async def test() -> None:
        runner = GatedRunner()
        async with running(runner, capacity=1) as engine:
            old = engine.open_session()
            future = engine.submit(old, chunk(0.0), "live")
            await runner.in_flight()
            engine.close_session(old)
            with pytest.raises(Overloaded):
                engine.open_session()
            runner.gate.set()
            assert await outcome(future) is None
            new = engine.open_session()
            assert position((await engine.submit(new, chunk(0.0), "live")).scores) == 0

    run(test())


def test_a_session_closed_while_waiting_never_touches_the_next_owner_of_its_slot() -> None:
    async def test() -> None:
        runner, observer = GatedRunner(), RecordingObserver()
        async with running(runner, capacity=2, observer=observer) as engine:
            busy = engine.submit(engine.open_session(), chunk(0.0), "live")
            await runner.in_flight()
            old = engine.open_session()
            gone = engine.submit(old, chunk(0.0), "live")
            engine.close_session(old)
            new = engine.open_session()
            fresh = engine.submit(new, chunk(0.0), "live")
            runner.gate.set()
            await busy
            assert gone.cancelled()
            assert position((await fresh).scores) == 0
            assert position((await engine.submit(new, chunk(0.0), "live")).scores) == 5
        assert observer.drops == ["cancelled"]

    run(test())


def test_a_closed_session_is_no_door_to_the_next_one_in_its_slot() -> None:
    async def test() -> None:
        async with running(capacity=1) as engine:
            old = engine.open_session()
            engine.close_session(old)
            engine.open_session()
            with pytest.raises(ValueError, match="not open"):
                engine.submit(old, chunk(0.0), "live")
            with pytest.raises(ValueError, match="not open"):
                engine.close_session(old)

    run(test())


def test_a_cancelled_waiter_cancels_its_chunk() -> None:
    async def test() -> None:
        runner, observer = GatedRunner(), RecordingObserver()
        async with running(runner, observer=observer) as engine:
            busy = engine.submit(engine.open_session(), chunk(0.0), "live")
            await runner.in_flight()
            number = engine.open_session()

            async def client() -> None:
                await engine.submit(number, chunk(0.0), "live")

            task = asyncio.create_task(client())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
            runner.gate.set()
            await busy
            assert position((await engine.submit(number, chunk(0.0), "live")).scores) == 0
        assert observer.drops == ["cancelled"]

    run(test())


def test_cancelling_a_chunk_in_a_running_step_harms_nobody() -> None:
    async def test() -> None:
        runner = GatedRunner()
        async with running(runner) as engine:
            futures = [engine.submit(engine.open_session(), chunk(0.0), "live") for _ in range(2)]
            await runner.in_flight()
            futures[0].cancel()
            runner.gate.set()
            assert (await futures[1]).batch == 2
            assert engine.status.alive

    run(test())


def test_one_session_may_change_lanes_and_keeps_its_state() -> None:
    async def test() -> None:
        async with running() as engine:
            number = engine.open_session()
            positions = []
            for lane in (UPLOAD, LIVE, FLUSH, FLUSH):
                result = await engine.submit(number, chunk(0.0, lane), lane.name)
                assert result.scores.shape == (lane.hops // 2, 12)
                positions.append(position(result.scores))
        assert positions == [0, 20, 25, 26]

    run(test())


def test_the_result_tells_queue_and_step_time() -> None:
    class SlowRunner(EchoRunner):
        def run(self, features: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            clock.advance(0.25)
            return super().run(features, state)

    clock = ManualClock()

    async def test() -> None:
        observer = RecordingObserver()
        async with running(SlowRunner(), clock=clock, observer=observer) as engine:
            future = engine.submit(engine.open_session(), chunk(0.0), "live")
            clock.advance(0.5)
            result = await future
        assert (result.queue_s, result.step_s, result.batch) == (0.5, 0.25, 1)
        assert (observer.queue_s, observer.step_s) == ([[0.5]], [0.25])

    run(test())


def test_results_share_no_memory() -> None:
    async def test() -> None:
        async with running() as engine:
            futures = [engine.submit(engine.open_session(), chunk(0.0), "live") for _ in range(2)]
            first, second = await asyncio.gather(*futures)
            assert not np.shares_memory(first.scores, second.scores)

    run(test())


def test_samples_may_be_overwritten_after_submit() -> None:
    async def test() -> None:
        runner = EchoRunner()
        async with running(runner) as engine:
            samples = chunk(-6.0)
            future = engine.submit(engine.open_session(), samples, "live")
            samples[:] = 0.0
            expected = runner.expected(plain_front_end(chunk(-6.0)[np.newaxis])[0])
            np.testing.assert_array_equal((await future).scores, expected)

    run(test())


@pytest.mark.parametrize(
    ("samples", "lane", "error", "message"),
    [
        (chunk(0.0)[:-1], "live", ValueError, r"float32 samples \(1840,\) for lane 'live', got float32 \(1839,\)"),
        (chunk(0.0)[np.newaxis], "live", ValueError, r"got float32 \(1, 1840\)"),
        (chunk(0.0).astype(np.float64), "live", ValueError, "got float64"),
        (chunk(0.0), "upload", ValueError, "6640"),
        (chunk(0.0), "bulk", ValueError, "one of the lanes .*, got 'bulk'"),
    ],
)
def test_a_chunk_that_is_none_is_refused_and_leaves_the_session_usable(
    samples: np.ndarray, lane: str, error: type[Exception], message: str
) -> None:
    async def test() -> None:
        async with running() as engine:
            number = engine.open_session()
            with pytest.raises(error, match=message):
                engine.submit(number, samples, lane)
            await engine.submit(number, chunk(0.0), "live")

    run(test())


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_samples_that_are_no_numbers_fail_alone_and_leave_the_state_as_it_was(broken: float) -> None:
    async def test() -> None:
        runner = EchoRunner()
        async with running(runner) as engine:
            numbers = [engine.open_session() for _ in range(3)]
            await asyncio.gather(*(engine.submit(number, chunk(-6.0), "live") for number in numbers))
            levels = [-6.0, broken, -6.0]
            answers = await asyncio.gather(
                *(engine.submit(number, chunk(level), "live") for number, level in zip(numbers, levels, strict=True)),
                return_exceptions=True,
            )
            assert isinstance(answers[1], InvalidAudio)
            assert "NaN or infinity" in str(answers[1])
            again = await engine.submit(numbers[1], chunk(-6.0), "live")
            for answer in (answers[0], answers[2]):
                assert isinstance(answer, StepResult)
                np.testing.assert_array_equal(answer.scores, again.scores)

    run(test())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lanes": [Lane("odd", 3, 0)]}, "multiple of 2, got 3"),
        ({"lanes": []}, "one or more lanes"),
        ({"capacity": 0}, "capacity=0"),
        ({"max_batch": 0}, "max_batch=0"),
        ({"max_step_failures": 0}, "max_step_failures=0"),
        ({"step_deadline_s": 0.0}, "step_deadline_s=0.0"),
    ],
)
def test_bounds_outside_their_range_are_refused(options: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"lanes": LANES, "capacity": 1, "max_batch": 1, "max_queue": 1} | options
    with pytest.raises(ValueError, match=message):
        bounds = {name: settings.pop(name) for name in ("capacity", "max_batch")}
        Engine(Stepper(EchoRunner(), plain_front_end, **bounds), **settings)


@pytest.mark.parametrize("call", [lambda e: e.open_session(), lambda e: e.submit(0, chunk(0.0), "live")])
def test_an_engine_that_was_not_started_says_so(call: Callable[[Engine], object]) -> None:
    engine = Engine(Stepper(EchoRunner(), plain_front_end, capacity=1, max_batch=1), lanes=LANES, max_queue=1)
    with pytest.raises(RuntimeError, match="must be started"):
        call(engine)


def test_an_engine_is_started_once() -> None:
    async def test() -> None:
        async with running() as engine:
            with pytest.raises(RuntimeError, match="once"):
                await engine.start()

    run(test())


def test_a_broken_observer_does_not_stop_the_audio() -> None:
    class BrokenObserver(RecordingObserver):
        def on_step(self, *facts: object) -> None:
            raise ZeroDivisionError(facts)

    async def test() -> None:
        async with running(observer=BrokenObserver()) as engine:
            number = engine.open_session()
            await engine.submit(number, chunk(0.0), "live")
            await engine.submit(number, chunk(0.0), "live")
            assert engine.status.ready

    run(test())


@pytest.mark.parametrize(
    ("max_batch", "expected"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8]), (9, [1, 2, 4, 8, 9])]
)
def test_buckets_double_up_to_the_largest_batch(max_batch: int, expected: list[int]) -> None:
    assert batch_buckets(max_batch) == expected
