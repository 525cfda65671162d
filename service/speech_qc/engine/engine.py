"""The dispatcher: takes chunks from many sessions, runs them in shared steps, completes each future exactly once.

One event loop, one dispatcher task, one device thread. A step takes the chunks that were queued while the device was
busy; the busier it is, the longer a step of live audio waits for more chunks. `queue` selects the chunks of a step,
`device` runs it, `delivery` delivers its results. This module must not depend on HTTP, sockets, audio formats, labels.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

import numpy as np

from speech_qc.engine.delivery import deliver
from speech_qc.engine.device import Device, Step
from speech_qc.engine.entry import Entry, Member, Reply, StepResult, fail_entries
from speech_qc.engine.protocols import EngineObserver, EngineStatus, FloatArray, Lane, SilentObserver
from speech_qc.engine.queue import Batch, StepQueue
from speech_qc.engine.slots import SlotTable
from speech_qc.engine.step import Stepper, chunk_samples
from speech_qc.errors import DeadlineExceeded, Draining, EngineDead, InferenceError, Overloaded

logger = logging.getLogger(__name__)


class Engine:
    """Runs the chunks of all sessions; one per process, from `start` to `stop`, used from one event loop.

    Args:
        steps: Runs the steps; from now on used by this engine only.
        lanes: Chunk sizes and their priorities.
        max_queue: Maximum queued chunks; `capacity` is enough for one per session.
        max_step_failures: Consecutive failed steps after which the engine is dead.
        step_deadline_s: Maximum time of a chunk in the queue. If a step runs longer than this, the device hangs; the
            engine is then dead, because its thread cannot be stopped.
        in_loop: Run steps in the event loop instead of a thread. This saves thread switches, which cost more than they
            gain if every core has its own event loop. But the engine can then not detect a step that hangs; this is
            left to the watchdog of the event loop.
        clock: Monotonic clock, seconds.
        observer: Notified of steps, drops, refusals and death.

    Raises:
        ValueError: A limit is below one, lanes conflict, or hops are not a whole number of frames.
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
                    f"lane {lane.name!r}: expected hops to be a multiple of {spec.hops_per_frame}, got {lane.hops}"
                )
        if max_step_failures < 1 or step_deadline_s <= 0:
            raise ValueError(f"{max_step_failures=}, {step_deadline_s=}: each must be above zero")
        self._queue = StepQueue(lanes, max_batch=steps.max_batch, max_queue=max_queue)
        self._reset = steps.reset
        self._device = Device(steps, in_loop=in_loop, clock=clock)
        self._sessions = SlotTable(steps.capacity)
        self._provider = steps.model.provider
        self._shapes = {lane.name: (chunk_samples(lane, spec),) for lane in lanes}
        self._lanes = {lane.name: lane for lane in lanes}
        self._max_step_failures = max_step_failures
        self._step_deadline_s = step_deadline_s
        self._clock = clock
        self._observer: EngineObserver = observer or SilentObserver()
        self._dispatcher: asyncio.Task[None] | None = None
        self._work = asyncio.Event()  # there is something to pop, or a reason to stop
        self._progress = asyncio.Event()  # `drain` should check its conditions again
        self._announced: list[tuple[Callable[[], None], float]] = []
        self._running: list[Entry] = []  # entries of steps that are running, or have run and are not answered yet
        self._started = self._draining = self._stopping = False
        self._death: str | None = None
        self._steps = self._entries_run = self._failures = self._failures_in_row = 0

    @property
    def status(self) -> EngineStatus:
        """A snapshot of the engine."""
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
        """Warm up all lanes, then start dispatching; `status.ready` is true afterwards.

        Raises:
            StartupError: The warm-up failed; the engine is unusable.
            RuntimeError: It was started before.
        """
        if self._started or self._stopping:
            raise RuntimeError("an engine can be started only once, and not after it was stopped")
        self._started = True
        await self._device.warm_up(list(self._lanes.values()))
        if not self._stopping:
            self._dispatcher = asyncio.create_task(self._dispatch(), name="speechqc-dispatcher")

    def open_session(self) -> int:
        """Open a session for a new stream, with the initial state.

        Returns:
            The session's number for `submit` and `close_session`; never reused.

        Raises:
            Overloaded: All places are taken.
            Draining: The engine accepts no new sessions.
            EngineDead: The engine will run no further steps.
        """
        self._check_accepting(new=True)
        try:
            number, slot = self._sessions.open()
        except Overloaded:
            self._notify(self._observer.on_refusal, "sessions")
            raise
        self._reset(slot)
        return number

    def close_session(self, number: int) -> None:
        """Close the session; a queued chunk is cancelled, one in a running step keeps the slot until the step ends.

        Raises:
            ValueError: No session of this number is open.
        """
        self._sessions.close(number)
        self._progress.set()

    def submit(self, number: int, samples: FloatArray, lane: str) -> asyncio.Future[StepResult]:
        """Queue a copy of one chunk, or refuse it immediately; see `post`.

        Returns:
            A future that resolves to the scores or raises; cancel it to drop the chunk.
        """
        self._check_accepting(new=False)
        future: asyncio.Future[StepResult] = asyncio.get_running_loop().create_future()
        self.post(number, samples.copy(), lane, future)
        return future

    def announce(self, gather: Callable[[], None], since_s: float | None = None) -> None:
        """Note that chunks will be posted by `gather`, which is called once, before the next step is chosen.

        So the work that leads to a chunk can be done for many sessions at once. `gather` must not raise.

        Args:
            gather: Posts the chunks.
            since_s: When the first of them was complete, on the engine's clock; now by default.

        Raises:
            Draining, EngineDead: See `post`.
        """
        self._check_accepting(new=False)
        self._announced.append((gather, self._clock() if since_s is None else since_s))
        self._work.set()
        if self._running and not self._device.in_loop:  # the event loop has time while the thread is busy
            asyncio.get_running_loop().call_soon(self._gather)

    def _gather(self) -> None:
        """Let the announced chunks be posted."""
        announced, self._announced = self._announced, []
        for gather, _ in announced:
            gather()

    def post(
        self, number: int, samples: FloatArray | None, lane: str, reply: Reply | Member, since_s: float | None = None
    ) -> None:
        """Queue one chunk, or refuse it immediately; never waits.

        Cancel the reply to drop the chunk. If its step is already running, the state still advances, and the session
        can then only be closed.

        Args:
            number: From `open_session`.
            samples: float32 [hops * hop_samples + overlap_samples] of the lane; must not change until the reply is
                done. None if the reply is a `Member`.
            lane: Name of a lane.
            reply: Takes the scores, or InferenceError (the step failed, the state is unchanged), InvalidAudio (samples
                are not finite, the state is unchanged), DeadlineExceeded (queued too long), EngineDead or Draining
                (the engine ended first).
            since_s: When the chunk was complete, on the engine's clock; now by default.

        Raises:
            Overloaded: The queue is full.
            Draining: The engine has stopped.
            EngineDead: The engine will run no further steps.
            ValueError: Unknown lane or session, or samples of the wrong length or type.
            RuntimeError: The session already has a chunk queued or running, so their order would be lost.
        """
        self._check_accepting(new=False)
        session = self._sessions[number]
        if session.entry is not None:
            raise RuntimeError(f"session {number} already has a chunk in the engine; await it before the next submit")
        if lane not in self._lanes:
            raise ValueError(f"expected one of the lanes {', '.join(self._lanes)}, got {lane!r}")
        if samples is not None and (samples.shape != self._shapes[lane] or samples.dtype != np.float32):
            raise ValueError(
                f"expected float32 samples {self._shapes[lane]} for lane {lane!r}, got {samples.dtype} {samples.shape}"
            )
        now = self._clock() if since_s is None else since_s
        entry = Entry(number, session.row, lane, samples, now, now + self._step_deadline_s, reply)
        try:
            self._queue.push(entry)
        except Overloaded:
            self._notify(self._observer.on_refusal, "queue")
            raise
        session.entry = entry
        self._work.set()

    async def drain(self, timeout_s: float, step_s: float | None = None) -> None:
        """Accept no new sessions, let open ones submit until they are closed, then stop.

        Args:
            timeout_s: Seconds after which the remaining chunks fail with Draining.
            step_s: See `stop`.
        """
        self._draining = True
        try:
            async with asyncio.timeout(timeout_s):
                while self._death is None and (self._sessions or self._running or self._queue):
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            logger.warning("drain timed out after %.1f s with %d sessions open", timeout_s, len(self._sessions))
        await self.stop(step_s)

    async def stop(self, step_s: float | None = None) -> None:
        """Stop after the running step; all queued chunks fail with Draining. Idempotent.

        Args:
            step_s: Maximum wait for that step, seconds; if it takes longer, the engine is dead. None: no limit.
        """
        self._draining = self._stopping = True
        self._gather()  # what posts now is refused
        fail_entries(
            self._queue.clear(), Draining("the server stopped before it scored this chunk; send it to another server")
        )
        self._work.set()
        if self._dispatcher is not None:
            done, _ = await asyncio.wait({self._dispatcher}, timeout=step_s)
            if not done:
                self._die(f"its last step was still running {step_s:g} s after the request to stop")
                self._dispatcher.cancel()
                await asyncio.wait({self._dispatcher})
        self._device.shutdown()

    async def _dispatch(self) -> None:
        """Run steps until the engine stops; complete every pending future, however it ends.

        With a device thread, the next step is started before the results of the last one are delivered, so that the
        device is not idle meanwhile.
        """
        done: Step | None = None
        try:
            while not self._stopping and self._death is None:
                announced_s = self._announced[0][1] if self._announced else None
                wait_s = self._queue.wait_s(self._clock(), self._device.load, announced_s)
                if done is not None and (wait_s or self._device.in_loop):  # results must not wait
                    self._finish_step(done)
                    done = None
                    continue
                if wait_s:
                    await asyncio.sleep(wait_s)
                self._gather()
                batch = self._queue.pop(self._clock())
                self._answer_dropped(batch)
                step = None if batch.lane is None else self._begin(batch.lane, batch.entries)
                if done is not None:
                    self._finish_step(done)
                    done = None
                    if step is None:
                        continue  # sessions that got their results may have submitted again
                if step is not None:
                    done = await self._ended(step)
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
                fail_entries(
                    self._running, Draining("the server stopped while it scored this chunk; send it to another server")
                )
            else:
                self._die("its dispatcher was cancelled")

    def _begin(self, lane: Lane, entries: list[Entry]) -> Step:
        self._running = self._running + entries
        for entry in entries:
            entry.running = True
        return self._device.begin(lane, entries)

    async def _ended(self, step: Step) -> Step | None:
        """Wait for a step to end; if it hangs, declare the engine dead and return None."""
        if await self._device.wait(step, self._step_deadline_s):
            return step
        self._die(f"a step has been running for more than {self._step_deadline_s} s, so the device hangs")
        return None

    def _finish_step(self, step: Step) -> None:
        """Complete the futures of a step that has ended."""
        self._steps += 1
        self._entries_run += len(step.entries)
        for entry in step.entries:
            self._sessions.release(entry)  # first, because a reply may submit the next chunk
        cause = step.scores.exception()
        if cause is None:
            self._failures_in_row = 0
            queue_s = deliver(step, step.scores.result())
            self._notify(self._observer.on_step, step.lane.name, len(step.entries), queue_s, step.step_s)
        else:
            self._answer_failed(step.entries, cause)
        self._running = [entry for entry in self._running if not entry.done]
        self._progress.set()

    def _answer_failed(self, entries: list[Entry], cause: BaseException) -> None:
        """Fail the entries of the step; after too many consecutive failures, declare the engine dead."""
        reason = cause.message if isinstance(cause, InferenceError) else f"{type(cause).__name__}: {cause}"
        logger.error("a step of %d chunks failed: %s", len(entries), reason, exc_info=cause)
        self._failures += 1
        self._failures_in_row += 1
        fail_entries(entries, InferenceError(f"the step of this chunk failed; the stream may retry: {reason}"), cause)
        if self._failures_in_row >= self._max_step_failures:
            self._die(f"{self._failures_in_row} consecutive steps failed, the last one with: {reason}")

    def _answer_dropped(self, batch: Batch) -> None:
        """Fail and count the entries that the queue dropped."""
        for entry, reason in batch.dropped:
            self._sessions.release(entry)
            limit_s = self._step_deadline_s  # a cancelled entry is already done, so only missed deadlines fail here
            fail_entries([entry], DeadlineExceeded(f"this chunk was not scored within {limit_s} s; try again later"))
            self._notify(self._observer.on_drop, reason)
            self._progress.set()

    def _die(self, message: str) -> None:
        """Declare the engine dead: it is no longer ready, and every pending future fails. Idempotent."""
        if self._death is not None:
            return
        self._death = message
        logger.critical("the engine is dead: %s", message)
        self._gather()  # what posts now is refused
        fail_entries([*self._running, *self._queue.clear()], self._dead())
        self._work.set()
        self._progress.set()
        self._notify(self._observer.on_death, message)

    def _dead(self) -> EngineDead:
        return EngineDead(f"the engine is dead and needs a restart: {self._death}")

    def _check_accepting(self, *, new: bool) -> None:
        """Raise if the engine is dead or stopped; while it drains, only open sessions may continue."""
        if self._death is not None:
            self._notify(self._observer.on_refusal, "dead")
            raise self._dead()
        if self._stopping or (new and self._draining):
            self._notify(self._observer.on_refusal, "draining")
            raise Draining("the server is shutting down and accepts nothing new; try another server, or retry later")
        if self._dispatcher is None:
            raise RuntimeError("the engine must be started before it is used")

    def _notify(self, callback: Callable[..., None], *facts: object) -> None:
        """Notify the observer; a failing metric must not interrupt scoring."""
        try:
            callback(*facts)
        except Exception:
            logger.exception("the engine's observer failed")
