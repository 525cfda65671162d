"""The seven rules of the engine, one section each; test_engine_sessions.py covers the rest."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import numpy as np
import pytest
from engine_doubles import (
    LANES,
    LIVE,
    UPLOAD,
    FailingRunner,
    GatedRunner,
    ManualClock,
    RecordingObserver,
    chunk,
    outcome,
    plain_front_end,
    random_chunks,
    run,
    running,
)

from speech_qc.engine import EchoRunner, Engine, Lane, Stepper
from speech_qc.engine.step import WARM_UP_HOPS
from speech_qc.errors import DeadlineExceeded, Draining, EngineDead, InferenceError, Overloaded, StartupError

PATIENT_DEADLINE_S = 60.0  # on the manual clock

# Rule 1: one event loop, one device thread.


def test_rule_1_all_device_work_is_in_one_thread_and_the_loop_stays_free() -> None:
    threads: set[threading.Thread] = set()

    def front_end(samples: np.ndarray) -> np.ndarray:
        threads.add(threading.current_thread())
        return plain_front_end(samples)

    class Runner(GatedRunner):
        def run(self, features: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            threads.add(threading.current_thread())
            return super().run(features, state)

    async def test() -> None:
        runner = Runner()
        async with running(runner, front_end=front_end) as engine:
            future = engine.submit(engine.open_session(), chunk(1.0), "live")
            await runner.in_flight()
            assert not future.done()  # this line is reached, so the step does not block the loop
            runner.gate.set()
            await future
            await engine.submit(engine.open_session(), chunk(1.0), "live")
        assert len(threads) == 1
        assert threading.current_thread() not in threads

    run(test())


# Rule 2: a step takes pending chunks, one per session, oldest first; buckets, fixed T, all warmed up before ready.


def test_rule_2_a_step_takes_whatever_queued_up_while_the_device_was_busy() -> None:
    async def test() -> None:
        runner, observer = GatedRunner(), RecordingObserver()
        async with running(runner, observer=observer) as engine:
            sessions = [engine.open_session() for _ in range(6)]
            futures = [engine.submit(sessions[0], chunk(0.0), "live")]
            await runner.in_flight()
            futures += [engine.submit(number, chunk(0.0), "live") for number in sessions[1:]]
            runner.gate.set()
            results = await asyncio.gather(*futures)
        assert observer.steps == [("live", 1), ("live", 4), ("live", 1)]
        assert [result.batch for result in results] == [1, 4, 4, 4, 4, 1]
        assert (engine.status.steps, engine.status.mean_batch) == (3, 2.0)

    run(test())


@pytest.mark.parametrize(("idle_s", "batches"), [(1000.0, [1, 3]), (0.0, [4])])
def test_rule_2_a_busy_engine_waits_for_more_chunks_and_an_idle_one_does_not(idle_s: float, batches: list[int]) -> None:
    async def test() -> None:
        clock, observer = ManualClock(), RecordingObserver()

        class Runner(EchoRunner):
            def run(self, features: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
                clock.advance(1.0)  # busy whenever a step runs
                return super().run(features, state)

        lanes = [replace(LIVE, collect_s=0.25)]
        async with running(Runner(), lanes=lanes, observer=observer, clock=clock, in_loop=True) as engine:
            sessions = [engine.open_session() for _ in range(4)]
            for _ in range(2):
                clock.advance(idle_s)
                await engine.submit(sessions[0], chunk(0.0), "live")
            observer.steps.clear()
            futures = [engine.submit(sessions[0], chunk(0.0), "live")]
            await asyncio.sleep(0.01)
            futures += [engine.submit(number, chunk(0.0), "live") for number in sessions[1:]]
            await asyncio.gather(*futures)
        assert observer.steps == [("live", batch) for batch in batches]

    run(test())


def test_rule_2_a_session_has_one_chunk_in_the_engine_at_most() -> None:
    async def test() -> None:
        runner = GatedRunner()
        async with running(runner) as engine:
            first, second = engine.open_session(), engine.open_session()
            running_one = engine.submit(first, chunk(0.0), "live")
            await runner.in_flight()
            waiting_one = engine.submit(second, chunk(0.0), "live")
            for number in (first, second):
                with pytest.raises(RuntimeError, match=f"session {number} already"):
                    engine.submit(number, chunk(0.0), "live")
            runner.gate.set()
            await asyncio.gather(running_one, waiting_one)
            await engine.submit(first, chunk(0.0), "live")

    run(test())


def test_rule_2_every_bucket_of_every_lane_is_warm_before_ready_where_shapes_are_fixed() -> None:
    async def test() -> None:
        runner = GatedRunner(fixed_shapes=True)
        runner.gate.set()
        engine = Engine(Stepper(runner, plain_front_end, capacity=8, max_batch=6), lanes=LANES, max_queue=8)
        assert not engine.status.ready
        await engine.start()
        assert engine.status.ready
        assert sorted(runner.warmed) == sorted((bucket, lane.hops) for bucket in (1, 2, 4, 6) for lane in LANES)
        await engine.stop()
        assert not engine.status.ready

    run(test())


@pytest.mark.parametrize(
    ("fixed_shapes", "most", "capacity", "batches"),
    [
        (False, None, 99, [1, 24]),
        (False, 1, 99, [1]),
        (False, 9, 99, [1, 9]),
        (False, None, 5, [1, 5]),
        (True, None, 99, [1, 2, 4, 8, 16, 24]),
        (True, 9, 99, [1, 2, 4, 8, 16]),
        (True, 8, 99, [1, 2, 4, 8]),
        (True, 1, 99, [1]),
        (True, 40, 20, [1, 2, 4, 8, 16, 24]),
    ],
)
def test_rule_2_no_batch_is_warmed_that_cannot_come(
    fixed_shapes: bool, most: int | None, capacity: int, batches: list[int]
) -> None:
    runner = GatedRunner(fixed_shapes=fixed_shapes)
    stepper = Stepper(runner, plain_front_end, capacity=capacity, max_batch=24)
    stepper.warm_up([Lane("live", 10, 0, most)])
    assert runner.warmed == [(batch, 10) for batch in batches]


@pytest.mark.parametrize(("hops", "batches"), [(10, [1, 100]), (40, [1, 64]), (400, [1, 6]), (2 * WARM_UP_HOPS, [1])])
def test_rule_2_the_start_does_not_wait_for_the_largest_step_of_uploads(hops: int, batches: list[int]) -> None:
    runner = GatedRunner()
    stepper = Stepper(runner, plain_front_end, capacity=100, max_batch=128)
    stepper.warm_up([Lane("one", hops, 0, 64 if hops > 10 else None)])
    assert runner.warmed == [(batch, hops) for batch in batches]


@pytest.mark.parametrize(("fixed_shapes", "expected"), [(True, (4, 10)), (False, (3, 10))])
def test_rule_2_batches_are_padded_to_a_warm_bucket_where_shapes_are_fixed(
    fixed_shapes: bool, expected: tuple[int, int]
) -> None:
    async def test() -> None:
        runner = GatedRunner(fixed_shapes=fixed_shapes)
        runner.gate.set()
        async with running(runner) as engine:
            futures = [engine.submit(engine.open_session(), chunk(value), "live") for value in (-9.0, -5.0, -1.0)]
            results = await asyncio.gather(*futures)
        assert runner.shapes == [expected]
        assert [result.batch for result in results] == [3, 3, 3]
        for value, result in zip((-9.0, -5.0, -1.0), results, strict=True):
            np.testing.assert_array_equal(result.scores, runner.expected(plain_front_end(chunk(value)[np.newaxis])[0]))

    run(test())


def test_rule_2_a_warm_up_that_fails_stops_the_start() -> None:
    async def test() -> None:
        engine = Engine(
            Stepper(EchoRunner(), lambda samples: samples, capacity=1, max_batch=1), lanes=LANES, max_queue=1
        )
        with pytest.raises(StartupError, match=r"expected features float32 \(1, 40, 73\)"):
            await engine.start()
        assert not engine.status.ready
        await engine.stop()

    run(test())


# Rule 3: live before upload.


def test_rule_3_live_overtakes_upload_and_waits_for_one_upload_step_at_most() -> None:
    async def test() -> None:
        runner, observer = GatedRunner(), RecordingObserver()
        async with running(runner, observer=observer, max_batch=1) as engine:
            uploads = [engine.submit(engine.open_session(), chunk(0.0, UPLOAD), "upload") for _ in range(3)]
            await runner.in_flight()
            live = engine.submit(engine.open_session(), chunk(0.0), "live")
            runner.gate.set()
            await asyncio.gather(live, *uploads)
        assert [lane for lane, _ in observer.steps] == ["upload", "live", "upload", "upload"]

    run(test())


# Rule 4: submit never waits; a chunk of a disconnected client is dropped when popped; deadlines.


def test_rule_4_overload_is_refused_not_queued() -> None:
    async def test() -> None:
        runner, observer = GatedRunner(), RecordingObserver()
        async with running(runner, observer=observer, max_queue=2) as engine:
            first = engine.submit(engine.open_session(), chunk(0.0), "live")
            await runner.in_flight()
            waiting = [engine.submit(engine.open_session(), chunk(0.0), "live") for _ in range(2)]
            refused = engine.open_session()
            with pytest.raises(Overloaded, match="at most 2"):
                engine.submit(refused, chunk(0.0), "live")
            assert engine.status.queued == 2
            runner.gate.set()
            await asyncio.gather(first, *waiting)
            await engine.submit(refused, chunk(0.0), "live")  # the refusal left no state
        assert observer.refusals == ["queue"]

    run(test())


def test_rule_4_a_cancelled_chunk_is_dropped_when_popped_and_counted() -> None:
    async def test() -> None:
        runner, observer = GatedRunner(), RecordingObserver()
        async with running(runner, observer=observer) as engine:
            first = engine.submit(engine.open_session(), chunk(0.0), "live")
            await runner.in_flight()
            leaver, stayer = engine.open_session(), engine.open_session()
            gone = engine.submit(leaver, chunk(0.0), "live")
            kept = engine.submit(stayer, chunk(0.0), "live")
            gone.cancel()
            assert observer.drops == []
            runner.gate.set()
            await asyncio.gather(first, kept)
            assert observer.drops == ["cancelled"]
            assert runner.shapes == [(1, 10), (1, 10)]
            await engine.submit(leaver, chunk(0.0), "live")

    run(test())


def test_rule_4_a_chunk_past_its_deadline_is_answered_and_counted() -> None:
    async def test() -> None:
        runner, observer, clock = GatedRunner(), RecordingObserver(), ManualClock()
        async with running(runner, observer=observer, clock=clock, step_deadline_s=PATIENT_DEADLINE_S) as engine:
            first = engine.submit(engine.open_session(), chunk(0.0), "live")
            await runner.in_flight()
            late = engine.submit(engine.open_session(), chunk(0.0), "live")
            clock.advance(1.0)
            timely = engine.submit(engine.open_session(), chunk(0.0), "live")
            clock.advance(PATIENT_DEADLINE_S - 0.5)
            runner.gate.set()
            assert isinstance(await outcome(late), DeadlineExceeded)
            assert await outcome(first) is None
            assert (await timely).queue_s == PATIENT_DEADLINE_S - 0.5
        assert observer.drops == ["deadline"]

    run(test())


# Rule 5: a failed step fails exactly its own entries; commit after success; dead after k in a row; no caller waits.


def test_rule_5_a_failed_step_fails_exactly_its_own_entries() -> None:
    async def test() -> None:
        async with running(FailingRunner([0]), max_batch=2) as engine:
            futures = [engine.submit(engine.open_session(), chunk(0.0), "live") for _ in range(4)]
            errors = [await outcome(future) for future in futures]
            assert [type(error) for error in errors] == [InferenceError, InferenceError, type(None), type(None)]
            assert "device lost" in str(errors[0])
            assert str(errors[0]) == str(errors[1])
            assert errors[0] is not errors[1]
            assert isinstance(errors[0], InferenceError) and isinstance(errors[0].__cause__, OSError)
            assert engine.status.alive
            assert (engine.status.failures, engine.status.steps) == (1, 2)

    run(test())


def test_rule_5_state_is_committed_only_after_success() -> None:
    async def test() -> None:
        runner = FailingRunner([1])
        async with running(runner) as engine:
            number = engine.open_session()
            tone = runner.contract.index("tone")
            first = await engine.submit(number, chunk(0.0), "live")
            assert isinstance(await outcome(engine.submit(number, chunk(0.0), "live")), InferenceError)
            second = await engine.submit(number, chunk(0.0), "live")
            np.testing.assert_allclose(first.scores[:, tone], [0.00, 0.01, 0.02, 0.03, 0.04], atol=1e-6)
            np.testing.assert_allclose(second.scores[:, tone], [0.05, 0.06, 0.07, 0.08, 0.09], atol=1e-6)

    run(test())


def test_rule_5_failures_that_are_not_in_a_row_do_not_kill() -> None:
    async def test() -> None:
        async with running(FailingRunner([0, 1, 3, 4]), max_step_failures=3) as engine:
            number = engine.open_session()
            errors = [await outcome(engine.submit(number, chunk(0.0), "live")) for _ in range(6)]
            assert [error is None for error in errors] == [False, False, True, False, False, True]
            assert engine.status.ready

    run(test())


def test_rule_5_a_dead_engine_answers_every_waiter_and_refuses_the_rest() -> None:
    async def test() -> None:
        observer = RecordingObserver()
        async with running(FailingRunner([0, 1]), observer=observer, max_batch=1, max_step_failures=2) as engine:
            futures = [engine.submit(engine.open_session(), chunk(0.0), "live") for _ in range(4)]
            errors = [await outcome(future) for future in futures]
            assert [type(error) for error in errors] == [InferenceError, InferenceError, EngineDead, EngineDead]
            assert not engine.status.alive
            assert not engine.status.ready
            assert "device lost" in (engine.status.death or "")
            with pytest.raises(EngineDead):
                engine.open_session()
            with pytest.raises(EngineDead):
                engine.submit(0, chunk(0.0), "live")
        assert len(observer.deaths) == 1
        assert observer.refusals == ["dead", "dead"]

    run(test())


def test_rule_5_a_dispatcher_that_breaks_leaves_no_future_pending() -> None:
    async def test() -> None:
        runner = GatedRunner()
        clock = ManualClock()
        async with running(runner, clock=clock, step_deadline_s=PATIENT_DEADLINE_S) as engine:
            running_one = engine.submit(engine.open_session(), chunk(0.0), "live")
            await runner.in_flight()
            waiting_one = engine.submit(engine.open_session(), chunk(0.0), "live")
            del clock.now_s  # the next read of the clock raises in the dispatcher
            runner.gate.set()
            for future in (running_one, waiting_one):
                error = await outcome(future)
                assert isinstance(error, EngineDead)
                assert "AttributeError" in str(error)
            assert not engine.status.alive

    run(test())


def test_rule_5_a_cancelled_dispatcher_leaves_no_future_pending() -> None:
    async def test() -> None:
        runner = GatedRunner()
        async with running(runner) as engine:
            futures = [engine.submit(engine.open_session(), chunk(0.0), "live")]
            await runner.in_flight()
            futures.append(engine.submit(engine.open_session(), chunk(0.0), "live"))
            next(task for task in asyncio.all_tasks() if task.get_name() == "speechqc-dispatcher").cancel()
            assert [type(await outcome(future)) for future in futures] == [EngineDead, EngineDead]
            assert not engine.status.alive

    run(test())


def test_rule_5_a_device_that_hangs_kills_the_engine_and_nobody_waits_for_it() -> None:
    async def test() -> None:
        runner = GatedRunner()
        async with running(runner, step_deadline_s=0.05) as engine:
            futures = [engine.submit(engine.open_session(), chunk(0.0), "live")]
            await runner.in_flight()
            futures.append(engine.submit(engine.open_session(), chunk(0.0), "live"))
            for future in futures:
                error = await outcome(future)
                assert isinstance(error, EngineDead)
                assert "hangs" in str(error)

    run(test())


def test_rule_5_an_entry_with_unusable_scores_does_not_fail_its_batch_mates() -> None:
    class Runner(EchoRunner):
        broken = True

        def run(self, features: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            scores, new_state = super().run(features, state)
            if self.broken:
                scores[1, 0, 0] = np.nan
                new_state[2, 0] = np.inf
            return scores, new_state

    async def test() -> None:
        runner = Runner()
        async with running(runner) as engine:
            sessions = [engine.open_session() for _ in range(3)]
            errors = [await outcome(f) for f in [engine.submit(number, chunk(0.0), "live") for number in sessions]]
            assert [type(error) for error in errors] == [type(None), InferenceError, InferenceError]
            runner.broken = False
            results = await asyncio.gather(*(engine.submit(number, chunk(0.0), "live") for number in sessions))
            positions = [result.scores[0, runner.contract.index("tone")] for result in results]
            np.testing.assert_allclose(positions, [0.05, 0.0, 0.0], atol=1e-6)

    run(test())


@pytest.mark.parametrize("cut", ["scores", "new_state", "nan"])
def test_rule_5_a_model_that_returns_nonsense_fails_the_step(cut: str) -> None:
    class Runner(EchoRunner):
        def run(self, features: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            scores, new_state = super().run(features, state)
            if cut == "nan":
                return scores * np.nan, new_state
            return (scores[:, :-1], new_state) if cut == "scores" else (scores, new_state[:, :-1])

    async def test() -> None:
        async with running(Runner()) as engine:
            error = await outcome(engine.submit(engine.open_session(), chunk(0.0), "live"))
            assert isinstance(error, InferenceError)
            assert engine.status.failures == 1

    run(test())


# Rule 6: scores do not depend on batch-mates.


@pytest.mark.parametrize("pad_to_bucket", [False, True])
def test_rule_6_batch_mates_do_not_change_scores(pad_to_bucket: bool) -> None:
    streams = [random_chunks(seed, 6) for seed in range(7)]

    async def one_stream(engine: Engine, chunks: list[np.ndarray], pause: int) -> np.ndarray:
        for _ in range(pause):
            await asyncio.sleep(0)
        number = engine.open_session()
        rows = [(await engine.submit(number, samples, "live")).scores for samples in chunks]
        engine.close_session(number)
        return np.concatenate(rows)

    async def test() -> None:
        runner = EchoRunner(lookahead_frames=2)
        async with running(runner, pad_to_bucket=pad_to_bucket) as engine:
            alone = [await one_stream(engine, chunks, 0) for chunks in streams]
            assert engine.status.mean_batch == 1.0
            together = await asyncio.gather(*(one_stream(engine, chunks, 3 * k) for k, chunks in enumerate(streams)))
            assert engine.status.mean_batch > 1.0
        for chunks, one, other in zip(streams, alone, together, strict=True):
            np.testing.assert_array_equal(one, other)
            features = np.concatenate([plain_front_end(samples[np.newaxis])[0] for samples in chunks])
            np.testing.assert_allclose(one[2:], runner.expected(features)[:-2], atol=1e-6)

    run(test())


# Rule 7: drain finishes accepted work, then stops.


def test_rule_7_drain_finishes_accepted_work_and_further_chunks_of_open_sessions() -> None:
    async def test() -> None:
        runner, observer = GatedRunner(), RecordingObserver()
        async with running(runner, observer=observer) as engine:
            number, other = engine.open_session(), engine.open_session()
            first = engine.submit(number, chunk(0.0), "live")
            await runner.in_flight()
            second = engine.submit(other, chunk(0.0, UPLOAD), "upload")
            drain = asyncio.create_task(engine.drain(timeout_s=60.0))
            await asyncio.sleep(0)
            assert engine.status.draining
            assert not engine.status.ready
            with pytest.raises(Draining):
                engine.open_session()
            runner.gate.set()
            await asyncio.gather(first, second)
            await engine.submit(number, chunk(0.0), "live")
            engine.close_session(other)
            assert not drain.done()
            engine.close_session(number)
            await drain
            with pytest.raises(Draining):
                engine.submit(number, chunk(0.0), "live")
        assert observer.steps == [("live", 1), ("upload", 1), ("live", 1)]
        assert observer.refusals == ["draining", "draining"]

    run(test())


def test_rule_7_drain_gives_up_at_its_limit_and_answers_the_rest() -> None:
    async def test() -> None:
        runner = GatedRunner()
        async with running(runner) as engine:
            in_step = engine.submit(engine.open_session(), chunk(0.0), "live")
            await runner.in_flight()
            waiting = engine.submit(engine.open_session(), chunk(0.0), "live")
            drain = asyncio.create_task(engine.drain(timeout_s=0.0))
            assert isinstance(await outcome(waiting), Draining)
            assert not in_step.done()
            runner.gate.set()
            assert await outcome(in_step) is None  # the step was in progress, so its scores are delivered
            await drain

    run(test())


def test_rule_7_stop_answers_all_that_remains_and_may_be_called_twice() -> None:
    async def test() -> None:
        async with running() as engine:
            futures = [engine.submit(engine.open_session(), chunk(0.0), "live") for _ in range(3)]
            await engine.stop()  # before the dispatcher received them
            assert [type(await outcome(future)) for future in futures] == [Draining] * 3
            await engine.stop()
            assert engine.status.alive

    run(test())


def test_rule_7_stop_ends_the_device_thread() -> None:
    async def test() -> None:
        threads: list[threading.Thread] = []

        def front_end(samples: np.ndarray) -> np.ndarray:
            threads.append(threading.current_thread())
            return plain_front_end(samples)

        async with running(front_end=front_end):
            assert threads[0].is_alive()
        await asyncio.to_thread(threads[0].join, 5.0)
        assert not threads[0].is_alive()

    run(test())
