"""The dispatcher: takes chunks from many sessions, runs them in shared steps, answers each future exactly once.

One event loop, one dispatcher task, one device thread. There is no timer: a step takes what queued up while the
device was busy. What goes into a step is decided in `speech_qc.engine.queue`, what happens in it in
`speech_qc.engine.step`; this module must not know HTTP, sockets, audio formats or labels.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from speech_qc.engine.entry import Entry, StepResult, fail_entries
from speech_qc.engine.protocols import (
    EngineObserver,
    FloatArray,
    Lane,
    SilentObserver,
    StepScores,
)
from speech_qc.engine.queue import Batch, StepQueue
from speech_qc.engine.slots import SlotTable
from speech_qc.engine.step import Stepper, chunk_samples
from speech_qc.errors import DeadlineExceeded, Draining, EngineDead, InferenceError, InvalidAudio, Overloaded

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """The engine at one moment; for readiness, metrics and logs."""

    alive: bool
    ready: bool
    """Warm, alive and taking new sessions."""
    draining: bool
    provider: str
    sessions: int
    queued: int
    steps: int
    """Steps run since the start, failed ones included."""
    mean_batch: float
    """Entries per step; 0 before the first."""
    failures: int
    """Failed steps since the start."""
    death: str | None
    """Why no further step will run."""


class _Here(Executor):
    """Runs what is submitted at once, in the thread that submits it."""

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        """Run it; the future is done."""
        future: Future[_T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@dataclass(slots=True)
class _Step:
    """One step between its start and its answers."""

    lane: Lane
    entries: list[Entry]
    started_s: float
    scores: asyncio.Future[StepScores]
    ended_s: float = 0.0


class Engine:
    """Runs the chunks of all sessions; one per process, from `start` to `stop`, used from one event loop.

    Args:
        steps: Runs them; from now on used by this engine alone.
        lanes: Chunk sizes and their order of precedence.
        max_queue: Most chunks waiting; `capacity` is enough for one of each session.
        max_step_failures: Failed steps in a row after which the engine is dead.
        step_deadline_s: Longest wait of a chunk in the queue. A step that itself runs longer counts as a device that
            hangs, which ends the engine, since nothing can end its thread.
        in_loop: Run steps in the event loop instead of a thread. That saves the switches between the two, which cost
            more than they bring where every core has an event loop of its own; but then the engine cannot notice a step
            that hangs, which is left to whoever watches the loop.
        clock: Monotonic seconds.
        observer: Told of steps, drops, refusals and death.

    Raises:
        ValueError: A bound below one, lanes that clash, or hops that are no whole number of frames.
    """

    def __init__(
        self,
        steps: Stepper,
        *,
        lanes: Sequence[Lane],
        max_queue: int,
        max_step_failures: int = 3,
        step_deadline_s: float = 30.0,
        in_loop: bool = False,
        clock: Callable[[], float] = time.monotonic,
        observer: EngineObserver | None = None,
    ) -> None:
        spec = steps.model.contract.features
        for lane in lanes:
            if lane.hops < 1 or lane.hops % spec.hops_per_frame:
                raise ValueError(
                    f"lane {lane.name!r}: hops must be a multiple of {spec.hops_per_frame}, given {lane.hops}"
                )
        if max_step_failures < 1 or step_deadline_s <= 0:
            raise ValueError(f"{max_step_failures=}, {step_deadline_s=}: each must be above zero")
        self._queue = StepQueue(lanes, max_batch=steps.max_batch, max_queue=max_queue)
        self._step_runner = steps
        self._sessions = SlotTable(steps.capacity)
        self._provider = steps.model.provider
        self._shapes = {lane.name: (chunk_samples(lane, spec),) for lane in lanes}
        self._lanes = {lane.name: lane for lane in lanes}
        self._max_step_failures = max_step_failures
        self._step_deadline_s = step_deadline_s
        self._clock = clock
        self._observer: EngineObserver = observer or SilentObserver()
        self._in_loop = in_loop
        self._device: Executor = (
            _Here() if in_loop else ThreadPoolExecutor(max_workers=1, thread_name_prefix="speechqc-device")
        )
        self._dispatcher: asyncio.Task[None] | None = None
        self._work = asyncio.Event()  # something to pop, or a reason to end
        self._progress = asyncio.Event()  # something that `drain` waits for may have come true
        self._running: list[Entry] = []  # entries of steps that are running, or ran and are not answered yet
        self._started = self._draining = self._stopping = False
        self._death: str | None = None
        self._steps = self._entries_run = self._failures = self._failures_in_row = 0

    @property
    def status(self) -> EngineStatus:
        """Snapshot of the engine as it is now."""
        alive = self._death is None
        return EngineStatus(
            alive=alive,
            ready=alive and self._dispatcher is not None and not self._draining,
            draining=self._draining,
            provider=self._provider,
            sessions=len(self._sessions),
            queued=len(self._queue),
            steps=self._steps,
            mean_batch=self._entries_run / self._steps if self._steps else 0.0,
            failures=self._failures,
            death=self._death,
        )

    async def start(self) -> None:
        """Warm up all lanes, then begin to dispatch; `status.ready` is true afterwards.

        Raises:
            StartupError: The warm-up failed; the engine is of no use.
            RuntimeError: It was started before.
        """
        if self._started or self._stopping:
            raise RuntimeError("an engine is started once, before it is stopped")
        self._started = True
        lanes = list(self._lanes.values())
        # Beside the loop even where steps run in it: another engine may be at work there.
        executor = None if self._in_loop else self._device
        await asyncio.get_running_loop().run_in_executor(executor, self._step_runner.warm_up, lanes)
        if not self._stopping:
            self._dispatcher = asyncio.create_task(self._dispatch(), name="speechqc-dispatcher")

    def open_session(self) -> int:
        """Take a place for a new stream, with the state of one that has heard nothing.

        Returns:
            The session's number for `submit` and `close_session`; never given twice.

        Raises:
            Overloaded: All places are taken.
            Draining: The engine takes nothing new.
            EngineDead: It will not run any more.
        """
        self._check_taking(new=True)
        try:
            number, slot = self._sessions.open()
        except Overloaded:
            self._tell(self._observer.on_refusal, "sessions")
            raise
        self._step_runner.reset(slot)
        return number

    def close_session(self, number: int) -> None:
        """Give the place back; a waiting chunk is cancelled, one in a running step keeps the place until its end.

        Raises:
            ValueError: No session of this number is open.
        """
        self._sessions.close(number)
        self._progress.set()

    def submit(self, number: int, samples: FloatArray, lane: str, *, copy: bool = True) -> asyncio.Future[StepResult]:
        """Queue one chunk, or refuse it at once; never waits.

        Cancel the future to give the chunk up. If its step was running by then, the state has moved on all the same,
        so the session is only good for being closed.

        Args:
            number: From `open_session`.
            samples: float32 [hops * hop_samples + overlap_samples] of the lane.
            lane: Name of a lane.
            copy: Without it the samples must not change until the future is done.

        Returns:
            Resolves to the scores, or raises InferenceError (its step failed, state is as before), InvalidAudio
            (samples that are not finite, state is as before), DeadlineExceeded (waited too long), EngineDead or
            Draining (the engine ended first).

        Raises:
            Overloaded: No place in the queue.
            Draining: The engine has stopped.
            EngineDead: It will not run any more.
            ValueError: Unknown lane or session, or samples of another length or type.
            RuntimeError: The session already has a chunk waiting or running, so their order would be lost.
        """
        self._check_taking(new=False)
        session = self._sessions[number]
        if session.entry is not None:
            raise RuntimeError(f"session {number} already has a chunk in the engine; await it before the next submit")
        if lane not in self._lanes:
            raise ValueError(f"lane {lane!r} is unknown; known are {', '.join(self._lanes)}")
        if samples.shape != self._shapes[lane] or samples.dtype != np.float32:
            raise ValueError(
                f"lane {lane!r} takes float32 samples {self._shapes[lane]}, given {samples.dtype} {samples.shape}"
            )
        chunk = samples.copy() if copy else samples
        now = self._clock()
        future: asyncio.Future[StepResult] = asyncio.get_running_loop().create_future()
        entry = Entry(number, session.row, lane, chunk, now, now + self._step_deadline_s, future)
        try:
            self._queue.push(entry)
        except Overloaded:
            self._tell(self._observer.on_refusal, "queue")
            raise
        session.entry = entry
        self._work.set()
        return future

    async def drain(self, timeout_s: float, step_s: float | None = None) -> None:
        """Take no new sessions, let those that are open submit until they are closed, then stop.

        Args:
            timeout_s: After this many seconds whatever is left is answered with Draining.
            step_s: As `stop` has it.
        """
        self._draining = True
        try:
            async with asyncio.timeout(timeout_s):
                while self._death is None and (self._sessions or self._running or self._queue):
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            logger.warning("drain gave up after %.1f s with %d sessions open", timeout_s, len(self._sessions))
        await self.stop(step_s)

    async def stop(self, step_s: float | None = None) -> None:
        """End after the running step; everything still waiting is answered with Draining. May be called twice.

        Args:
            step_s: Longest wait for that step; if it takes longer, the engine is dead. None: as long as it takes.
        """
        self._draining = self._stopping = True
        fail_entries(self._queue.clear(), Draining("the server stopped before this chunk's turn; send it to another"))
        self._work.set()
        if self._dispatcher is not None:
            done, _ = await asyncio.wait({self._dispatcher}, timeout=step_s)
            if not done:
                self._die(f"its last step was still running {step_s:g} s after the word to stop")
                self._dispatcher.cancel()
                await asyncio.wait({self._dispatcher})
        self._device.shutdown(wait=False)  # idle by now, unless the device hangs, and then nobody should wait for it

    async def _dispatch(self) -> None:
        """Run steps until told to stop; however it ends, nobody is left waiting.

        The next step is started before the last one is answered, so that the device does not wait for the answering.
        """
        done: _Step | None = None
        try:
            while not self._stopping and self._death is None:
                batch = self._queue.pop(self._clock())
                self._answer_dropped(batch)
                step = None if batch.lane is None else self._begin_step(batch.lane, batch.entries)
                if done is not None:
                    self._finish_step(done)
                    done = None
                    if step is None:
                        continue  # those who were answered may have submitted since
                if step is not None:
                    done = await self._step_end(step)
                else:
                    self._work.clear()
                    await self._work.wait()
            if done is not None:
                self._finish_step(done)
        except Exception as error:
            logger.exception("the dispatcher failed")
            self._die(f"its dispatcher failed: {type(error).__name__}: {error}")
        finally:
            if self._stopping:
                fail_entries(self._running, Draining("the server stopped during this chunk's step; send it to another"))
            else:
                self._die("its dispatcher was cancelled")

    def _begin_step(self, lane: Lane, entries: list[Entry]) -> _Step:
        """Hand one step to the device thread."""
        self._running = self._running + entries
        for entry in entries:
            entry.running = True
        slots, samples = [entry.slot for entry in entries], [entry.samples for entry in entries]
        started_s = self._clock()
        loop = asyncio.get_running_loop()
        return _Step(
            lane, entries, started_s, loop.run_in_executor(self._device, self._step_runner.run, lane, slots, samples)
        )

    async def _step_end(self, step: _Step) -> _Step | None:
        """Wait for the end of a step; None when it hangs, which was dealt with."""
        try:
            await asyncio.wait({step.scores}, timeout=self._step_deadline_s)
        finally:
            finished = not step.scores.cancel()  # one that is done cannot be cancelled; one that runs has lost its loop
        if finished:
            step.ended_s = self._clock()
            return step
        self._die(f"a step has been running for more than {self._step_deadline_s} s, so the device hangs")
        return None

    def _finish_step(self, step: _Step) -> None:
        """Answer the entries of a step that has ended."""
        self._steps += 1
        self._entries_run += len(step.entries)
        cause = step.scores.exception()
        if cause is None:
            self._answer(step, step.scores.result())
        else:
            self._answer_failed(step.entries, cause)
        self._running = [entry for entry in self._running if not entry.future.done()]
        for entry in step.entries:
            self._sessions.release(entry)
        self._progress.set()

    def _answer(self, step: _Step, result: StepScores) -> None:
        """Hand out the rows of a step that succeeded."""
        self._failures_in_row = 0
        entries, step_s, batch = step.entries, step.ended_s - step.started_s, len(step.entries)
        queue_s = [step.started_s - entry.submitted_s for entry in entries]
        if not result.good.all():
            self._answer_broken(entries, result)
        for entry, scores, reading, wait_s in zip(entries, result.scores, result.readings, queue_s, strict=True):
            if not entry.future.done():
                entry.future.set_result(StepResult(scores, reading, wait_s, step_s, result.features_s, batch))
        self._tell(self._observer.on_step, step.lane.name, batch, queue_s, step_s)

    def _answer_broken(self, entries: list[Entry], result: StepScores) -> None:
        """Tell those whose row of the step is of no use."""
        rows = list(zip(entries, result.good, result.heard, strict=True))
        fail_entries(
            [entry for entry, _, heard in rows if not heard],
            InvalidAudio("expected finite samples in [-1, 1], the chunk holds NaN or infinity; send real audio"),
        )
        broken = [entry for entry, good, heard in rows if heard and not good]
        if broken:
            logger.error("%d of %d chunks of a step got scores that are not finite", len(broken), len(entries))
            fail_entries(broken, InferenceError("the scores of this chunk are not finite, its stream may retry"))

    def _answer_failed(self, entries: list[Entry], cause: BaseException) -> None:
        """Tell exactly the entries of the step, and everybody when it was one failure too many."""
        reason = cause.message if isinstance(cause, InferenceError) else f"{type(cause).__name__}: {cause}"
        logger.error("a step of %d chunks failed: %s", len(entries), reason, exc_info=cause)
        self._failures += 1
        self._failures_in_row += 1
        fail_entries(entries, InferenceError(f"the step of this chunk failed, its stream may retry: {reason}"), cause)
        if self._failures_in_row >= self._max_step_failures:
            self._die(f"{self._failures_in_row} steps in a row failed, the last one with: {reason}")

    def _answer_dropped(self, batch: Batch) -> None:
        """Answer and count the entries that the queue gave up."""
        for entry, reason in batch.dropped:
            self._sessions.release(entry)
            limit_s = self._step_deadline_s  # a cancelled entry has its answer, so this is for deadlines alone
            fail_entries([entry], DeadlineExceeded(f"this chunk waited {limit_s} s for its turn; try again later"))
            self._tell(self._observer.on_drop, reason)
            self._progress.set()

    def _die(self, message: str) -> None:
        """End for good: readiness false, every waiter answered. Later calls change nothing."""
        if self._death is not None:
            return
        self._death = message
        logger.critical("the engine is dead: %s", message)
        fail_entries([*self._running, *self._queue.clear()], self._dead())
        self._work.set()
        self._progress.set()
        self._tell(self._observer.on_death, message)

    def _dead(self) -> EngineDead:
        return EngineDead(f"the engine is dead and needs a restart: {self._death}")

    def _check_taking(self, *, new: bool) -> None:
        """Refuse when the engine is dead or going away; open sessions may go on while it drains."""
        if self._death is not None:
            self._tell(self._observer.on_refusal, "dead")
            raise self._dead()
        if self._stopping or (new and self._draining):
            self._tell(self._observer.on_refusal, "draining")
            raise Draining("the server is going away and takes nothing new; try another one, or again later")
        if self._dispatcher is None:
            raise RuntimeError("the engine must be started before it is used")

    def _tell(self, callback: Callable[..., None], *facts: object) -> None:
        """Tell the observer; a broken metric must not stop the audio."""
        try:
            callback(*facts)
        except Exception:
            logger.exception("the engine's observer failed")
