"""Members: chunks that are cut when their step begins, results that a group takes at once, and announcements."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from engine_doubles import FailingRunner, GatedRunner, chunk, run, running

from speech_qc.engine import EchoRunner, Engine, GroupResult
from speech_qc.errors import Draining, EngineDead, InferenceError, SpeechQCError
from waiting import until

TONE = EchoRunner().contract.index("tone")


def read_out(samples: np.ndarray, scores: np.ndarray) -> list[tuple[float, int]]:
    """Return each row's first sample and position in its stream."""
    return [(float(row[0]), round(float(own[0, TONE]) * 100)) for row, own in zip(samples, scores, strict=True)]


class Choir:
    """A group that notes what it is given."""

    def __init__(self) -> None:
        self.taken: list[list[tuple[str, Any]]] = []

    def deliver(self, members: list[Singer], result: GroupResult) -> None:
        assert len(members) == len(result.places) == len(result.queue_s)
        readings = list(result.readings)
        self.taken.append(
            [(member.name, readings[place]) for member, place in zip(members, result.places, strict=True)]
        )


class Singer:
    """A member whose chunks have the value that it has when they are cut."""

    def __init__(self, name: str, engine: Engine, group: Choir) -> None:
        self.name, self.group, self._engine = name, group, engine
        self.number = engine.open_session()
        self.value, self.closed = 0.0, False
        self.failures: list[BaseException] = []

    def post(self, since_s: float | None = None) -> None:
        self._engine.post(self.number, None, "live", self, since_s)

    def done(self) -> bool:
        return self.closed

    def cancel(self) -> bool:
        self.closed = True
        return True

    def cut(self) -> np.ndarray:
        return chunk(self.value)

    def set_exception(self, error: BaseException) -> None:
        self.failures.append(error)
        if len(self.failures) == 1 and isinstance(error, InferenceError):
            self.post()


def test_a_step_cuts_its_chunks_when_it_begins_and_gives_all_results_to_the_group_at_once() -> None:
    async def test() -> None:
        runner, choir = GatedRunner(), Choir()
        async with running(runner, read_out=read_out) as engine:
            alone, *others = [Singer(name, engine, choir) for name in "abc"]
            alone.post()
            await runner.in_flight()
            for member in others:
                member.post()
            future = engine.submit(engine.open_session(), chunk(9.0), "live")
            for value, member in enumerate(others, start=1):
                member.value = float(value)  # after the post, before the step
            runner.gate.set()
            assert (await future).reading == (9.0, 0)
            assert choir.taken == [[("a", (0.0, 0))], [("b", (1.0, 0)), ("c", (2.0, 0))]]

    run(test())


def test_a_member_submits_a_chunk_again_whose_step_failed() -> None:
    async def test() -> None:
        choir = Choir()
        async with running(FailingRunner([1]), read_out=read_out) as engine:
            member = Singer("a", engine, choir)
            member.post()
            await until(lambda: len(choir.taken) == 1, "the chunk is scored")
            member.post()
            await until(lambda: len(choir.taken) == 2, "the chunk is scored")
            assert [reading for ((_, reading),) in choir.taken] == [(0.0, 0), (0.0, 5)]  # no frame lost or repeated
            assert [type(failure) for failure in member.failures] == [InferenceError]

    run(test())


def test_a_member_that_closes_while_its_step_runs_is_given_nothing() -> None:
    async def test() -> None:
        runner, choir = GatedRunner(), Choir()
        async with running(runner, read_out=read_out) as engine:
            member = Singer("a", engine, choir)
            member.post()
            await runner.in_flight()
            engine.close_session(member.number)
            member.closed = True
            runner.gate.set()
            await until(lambda: engine.status.steps == 1, "the step is over")
            assert choir.taken == [] and member.failures == []

    run(test())


@pytest.mark.parametrize("in_loop", [True, False])
def test_announced_chunks_are_posted_before_the_next_step_is_chosen(*, in_loop: bool) -> None:
    async def test() -> None:
        choir, calls = Choir(), 0
        async with running(read_out=read_out, in_loop=in_loop) as engine:
            members = [Singer(name, engine, choir) for name in "ab"]

            def gather() -> None:
                nonlocal calls
                calls += 1
                for member in members:
                    member.post()

            engine.announce(gather)
            await until(lambda: bool(choir.taken), "the chunks are scored")
            assert [name for name, _ in choir.taken[0]] == ["a", "b"]
            assert calls == 1 and engine.status.steps == 1

    run(test())


@pytest.mark.parametrize(("kind", "end"), [(Draining, "stop"), (EngineDead, "die")])
def test_what_was_announced_learns_that_the_engine_has_ended(kind: type[SpeechQCError], end: str) -> None:
    async def test() -> None:
        choir, refusals = Choir(), []
        async with running(FailingRunner(range(9)), read_out=read_out, max_step_failures=1) as engine:
            member, broken = Singer("a", engine, choir), Singer("b", engine, choir)

            def gather() -> None:
                try:
                    member.post()
                except SpeechQCError as refusal:
                    refusals.append(type(refusal))

            if end == "die":
                broken.post()
                await asyncio.sleep(0)  # the step has begun
                engine.announce(gather)
                await until(lambda: engine.status.death is not None or refusals, "the engine dies")
            else:
                engine.announce(gather)
                await engine.stop()
            assert refusals == [kind] or [type(failure) for failure in member.failures] == [kind]
            with pytest.raises(kind):
                engine.announce(gather)

    run(test())
