"""Steps in the event loop instead of a thread: the same results and the same rules."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import Any

import numpy as np
import pytest
from engine_doubles import (
    LANES,
    FailingRunner,
    RecordingObserver,
    chunk,
    outcome,
    plain_front_end,
    random_chunks,
    run,
    running,
)

from speech_qc.engine import EchoRunner, Engine, Stepper
from speech_qc.errors import Draining, EngineDead, InferenceError, StartupError


async def scores_of(engine: Engine, streams: list[list[np.ndarray]]) -> list[np.ndarray]:
    """Run several concurrent streams; each chunk is submitted after the result of the previous one."""

    async def one(chunks: list[np.ndarray]) -> np.ndarray:
        number = engine.open_session()
        return np.concatenate([(await engine.submit(number, samples, "live")).scores for samples in chunks])

    return await asyncio.gather(*map(one, streams))


def test_scores_are_those_of_the_thread() -> None:
    streams = [random_chunks(seed, count) for seed, count in enumerate((6, 3, 9, 1, 5))]

    async def test() -> None:
        found = []
        for in_loop in (False, True):
            async with running(EchoRunner(lookahead_frames=2), in_loop=in_loop) as engine:
                found.append(await scores_of(engine, streams))
        for thread, loop in zip(*found, strict=True):
            np.testing.assert_array_equal(loop, thread)

    run(test())


def test_steps_run_in_the_loops_own_thread() -> None:
    threads: set[threading.Thread] = set()

    def front_end(samples: np.ndarray) -> np.ndarray:
        threads.add(threading.current_thread())
        return plain_front_end(samples)

    async def test() -> None:
        async with running(front_end=front_end, in_loop=True) as engine:
            threads.clear()  # the warm-up runs outside the loop, in which another engine may be running
            await engine.submit(engine.open_session(), chunk(1.0), "live")
        assert threads == {threading.current_thread()}

    run(test())


def test_what_was_submitted_in_one_turn_shares_a_step_and_is_answered_in_order() -> None:
    async def test() -> None:
        observer = RecordingObserver()
        answered: list[int] = []

        def note(number: int, _: object) -> None:
            answered.append(number)

        async with running(observer=observer, in_loop=True) as engine:
            sessions = [engine.open_session() for _ in range(6)]
            futures = [engine.submit(number, chunk(0.0), "live") for number in sessions]
            for number, future in zip(sessions, futures, strict=True):
                future.add_done_callback(partial(note, number))
            await asyncio.gather(*futures)
        assert observer.steps == [("live", 4), ("live", 2)]
        assert answered == sessions

    run(test())


def test_a_chunk_submitted_by_the_receiver_of_an_answer_is_not_forgotten() -> None:
    """There is no busy thread to wait for, so work submitted while results are delivered must be noticed."""

    async def test() -> None:
        async with running(in_loop=True) as engine:
            number, done, count = engine.open_session(), asyncio.get_running_loop().create_future(), 0

            def again(future: asyncio.Future[Any]) -> None:
                nonlocal count
                count += 1
                if future.exception() is not None or count == 200:
                    done.set_result(future.exception())
                    return
                engine.submit(number, chunk(0.0), "live").add_done_callback(again)

            engine.submit(number, chunk(0.0), "live").add_done_callback(again)
            assert await asyncio.wait_for(done, 5) is None

    run(test())


def test_others_get_their_turn_between_steps() -> None:
    async def test() -> None:
        async with running(in_loop=True) as engine:
            number, steps_at = engine.open_session(), []

            async def bystander() -> None:
                for _ in range(50):
                    steps_at.append(engine.status.steps)
                    await asyncio.sleep(0)

            watching = asyncio.create_task(bystander())
            for _ in range(20):
                await engine.submit(number, chunk(0.0), "live")
            await watching
        assert len(set(steps_at)) > 5, "seen while steps went on, not before or after all of them"

    run(test())


def test_a_failed_step_fails_exactly_its_own_entries_and_leaves_their_state() -> None:
    tone = EchoRunner().contract.index("tone")

    async def test() -> None:
        async with running(FailingRunner([1]), in_loop=True) as engine:
            good, bad = engine.open_session(), engine.open_session()
            before = (await engine.submit(good, chunk(0.0), "live")).scores
            failed = engine.submit(bad, chunk(0.0), "live")
            assert isinstance(await outcome(failed), InferenceError)
            after = (await engine.submit(good, chunk(0.0), "live")).scores
            retried = (await engine.submit(bad, chunk(0.0), "live")).scores
            assert before[0, tone] == retried[0, tone] == 0.0
            assert after[0, tone] == pytest.approx(0.05)
            assert engine.status.failures == 1
            assert engine.status.alive

    run(test())


def test_one_failure_too_many_ends_the_engine_and_answers_every_waiter() -> None:
    async def test() -> None:
        observer = RecordingObserver()
        async with running(FailingRunner(range(9)), in_loop=True, max_step_failures=2, observer=observer) as engine:
            futures = [engine.submit(engine.open_session(), chunk(0.0), "live") for _ in range(8)]
            errors = [type(await outcome(future)) for future in futures]
            assert set(errors) <= {InferenceError, EngineDead}
            assert errors[:4] == [InferenceError] * 4
            assert not engine.status.ready
            assert len(observer.deaths) == 1

    run(test())


def test_a_broken_row_fails_alone() -> None:
    async def test() -> None:
        async with running(in_loop=True) as engine:
            samples = chunk(0.0)
            samples[5] = np.nan
            futures = [engine.submit(engine.open_session(), piece, "live") for piece in (chunk(0.0), samples)]
            assert await outcome(futures[0]) is None
            assert await outcome(futures[1]) is not None

    run(test())


def test_a_warm_up_that_fails_stops_the_start_there_too() -> None:
    async def test() -> None:
        engine = Engine(
            Stepper(EchoRunner(), lambda samples: samples, capacity=1, max_batch=1),
            lanes=LANES,
            max_queue=1,
            in_loop=True,
        )
        with pytest.raises(StartupError):
            await engine.start()
        await engine.stop()

    run(test())


def test_drain_and_stop_leave_no_future_pending() -> None:
    async def test() -> None:
        async with running(in_loop=True) as engine:
            number = engine.open_session()
            future = engine.submit(number, chunk(0.0), "live")
            draining = asyncio.create_task(engine.drain(5.0))
            assert await outcome(future) is None
            engine.close_session(number)
            await draining
            with pytest.raises(Draining):
                engine.open_session()
        async with running(in_loop=True) as engine:
            futures = [engine.submit(engine.open_session(), chunk(0.0), "live") for _ in range(6)]
            await engine.stop()
            for future in futures:
                assert isinstance(await outcome(future), Draining | None)

    run(test())
