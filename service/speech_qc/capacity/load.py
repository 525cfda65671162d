"""A process of many clients: `python -m speech_qc.capacity.load` reads a plan from standard input, runs it, reports.

Input: one line of JSON (`Plan`), then the encoded audio. Output: the line `begun` when the clock starts, one line
of JSON (`Outcome`), then the timings as float32: lags, answers, lateness. All streams send at the same interval, each
at its own phase, like independent callers; starts are a Poisson process over the ramp.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from array import array
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import TypeAlias
from urllib.parse import urlsplit

from speech_qc.capacity.frames import BINARY, TEXT, FrameSocket, client_frame, upgrade_request

RATE_HZ = 16_000
"""Rate of the model, at which positions are counted whatever the rate of the streams."""
TURN = 8
"""Messages sent in a row by clients that are behind, before received data is processed."""
SHORTEST_SLEEP_S = 0.001
"""A message due sooner is sent immediately: event loops have a resolution of milliseconds."""

Timings: TypeAlias = "tuple[array[float], array[float], array[float]]"  # an array is not generic at run time in 3.11
"""Lags, answers and lateness, float32 seconds."""

CLOSE_STREAM = client_frame(TEXT, b'{"type":"CloseStream"}')
SCORES = b'{"type":"scores","first_frame":'
FRAMES = b'"frames":{"'


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of one client process.

    Args:
        url: URL of the streams, with its query.
        streams: Number of streams.
        message_ms: Audio in one message.
        message_bytes: The bytes of it.
        frame_samples: Samples of an output frame, at `RATE_HZ`.
        context_samples: Samples after a frame's end that its scores depend on, likewise.
        ramp_s: Time within which the streams start.
        settle_s: Time after the ramp during which nothing is timed.
        measure_s: Time after that during which messages are timed; then the streams close.
        close_s: Longest wait for the last summaries.
        seed: Seed of phases and starts.
        api_key: Key to send; None for a server without keys.
    """

    url: str
    streams: int
    message_ms: int
    message_bytes: int
    frame_samples: int
    context_samples: int
    ramp_s: float
    settle_s: float
    measure_s: float
    close_s: float
    seed: int
    api_key: str | None = None


@dataclass(slots=True)
class Outcome:
    """The outcome of a plan; lags, answers and lateness follow as float32 seconds.

    Attributes:
        timed: Number of lags, answers and lateness values.
        lost_frames: Frames that were not received, or received out of order.
        failed: Streams that did not end with a summary and code 1000.
        reason: Reason of the first failure.
        cpu_s: CPU time that the process used while messages were timed.
    """

    timed: tuple[int, int, int] = (0, 0, 0)
    lost_frames: int = 0
    failed: int = 0
    reason: str | None = None
    cpu_s: float = 0.0


def frame_range(text: bytes) -> tuple[int, int] | None:
    """Return first frame and number of frames of a `scores` message, without parsing it; None for other messages."""
    if not text.startswith(SCORES):
        return None
    first = int(text[len(SCORES) : text.index(b",", len(SCORES))])
    values = text.index(b"[", text.index(FRAMES))
    return first, text.count(b",", values, text.index(b"]", values)) + 1


@dataclass(slots=True, eq=False)
class LoadClient:
    """One client with its stream.

    Args:
        phase_s: Time within each interval at which it sends.
        start_s: Time from the beginning at which it connects.
        first_message: Index of the message that it sends first.
    """

    phase_s: float
    start_s: float
    first_message: int
    socket: FrameSocket | None = None
    ready: bool = False
    closing: bool = False
    summary: bool = False
    ended: bool = False
    frames: int = 0
    lost: int = 0
    code: int | None = None
    reason: str = ""
    sent_s: array[float] = field(default_factory=lambda: array("d"))
    """Time at which each message was sent."""


class Load:
    """Runs a plan; used from one event loop.

    Args:
        plan: The plan.
        audio: Encoded audio that all streams send in a loop.
    """

    def __init__(self, plan: Plan, audio: bytes) -> None:
        self._plan = plan
        self._interval_s = plan.message_ms / 1000
        self._message_samples = RATE_HZ * plan.message_ms // 1000
        size = plan.message_bytes
        self._messages = [client_frame(BINARY, audio[i : i + size]) for i in range(0, len(audio) - size + 1, size)]
        chance = random.Random(plan.seed)
        starts = (chance.uniform(0, plan.ramp_s) for _ in range(plan.streams))  # a Poisson process of known size
        callers = [LoadClient(s % self._interval_s, s, chance.randrange(len(self._messages))) for s in starts]
        self._callers = sorted(callers, key=lambda caller: caller.phase_s)
        self._request = upgrade_request(plan.url, plan.api_key)
        self._address = urlsplit(plan.url)
        self._connecting: set[asyncio.Task[None]] = set()
        self._open = plan.streams
        self._all_ended = asyncio.Event()
        self._measure_from = self._measure_to = 0.0
        self.lags, self.answers, self.late = array("f"), array("f"), array("f")

    async def run(self) -> Outcome:
        """Run the plan and return its outcome."""
        plan = self._plan
        begin = time.monotonic()
        self._measure_from = begin + plan.ramp_s + plan.settle_s
        self._measure_to = self._measure_from + plan.measure_s
        watch = asyncio.create_task(self._cpu())
        await self._pace(begin)
        try:
            async with asyncio.timeout(plan.close_s):
                await self._all_ended.wait()
        except TimeoutError:
            for caller in self._callers:
                if caller.socket is not None:
                    caller.socket.abort()
        outcome = Outcome((len(self.lags), len(self.answers), len(self.late)), cpu_s=await watch)
        for caller in self._callers:
            self._judge(caller, outcome)
        return outcome

    async def _cpu(self) -> float:
        await asyncio.sleep(self._measure_from - time.monotonic())
        before = time.process_time()
        await asyncio.sleep(self._measure_to - time.monotonic())
        return time.process_time() - before

    async def _pace(self, begin: float) -> None:
        """Send every message at its time, one interval after the other, and close all streams in the last interval."""
        turn, due_round = 0, begin
        while due_round < self._measure_to + self._interval_s:
            for caller in self._callers:
                due = due_round + caller.phase_s
                wait = due - time.monotonic()
                turn += 1
                if wait > SHORTEST_SLEEP_S:
                    await asyncio.sleep(wait)
                elif turn % TURN == 0:
                    await asyncio.sleep(0)
                if due >= begin + caller.start_s - 1e-9:
                    self._advance(caller, due)
            due_round += self._interval_s

    def _advance(self, caller: LoadClient, due: float) -> None:
        """Open the stream, send its next message, or close it."""
        if caller.socket is None:
            if due < self._measure_from:
                self._connect(caller)
        elif caller.ready and not caller.ended and not caller.closing:
            if due >= self._measure_to:
                caller.closing = True
                caller.socket.write(CLOSE_STREAM)
                return
            position = (caller.first_message + len(caller.sent_s)) % len(self._messages)
            now = time.monotonic()
            caller.sent_s.append(now)
            caller.socket.write(self._messages[position])
            if due >= self._measure_from:
                self.late.append(now - due)

    def _connect(self, caller: LoadClient) -> None:
        def on_text(text: bytes) -> None:
            self._on_text(caller, text)

        def on_end(code: int, reason: str) -> None:
            self._end(caller, code, reason)

        caller.socket = socket = FrameSocket(self._request, on_text, on_end)
        task = asyncio.create_task(self._dial(socket, caller))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _dial(self, socket: FrameSocket, caller: LoadClient) -> None:
        secure = self._address.scheme in ("wss", "https")
        port = self._address.port or (443 if secure else 80)
        try:
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: socket, self._address.hostname or "", port, ssl=secure or None)
        except OSError as error:
            self._end(caller, 1006, f"cannot connect: {error}")

    def _on_text(self, caller: LoadClient, text: bytes) -> None:
        now = time.monotonic()
        found = frame_range(text)
        if found is None:
            if text.startswith(b'{"type":"ready"'):
                caller.ready = True
            elif text.startswith(b'{"type":"summary"'):
                caller.summary = True
            elif text.startswith(b'{"type":"error"') and not caller.reason:
                caller.reason = text.decode(errors="replace")[:300]
            return
        first, count = found
        if first != caller.frames:
            caller.lost += abs(first - caller.frames)
        caller.frames = first + count
        end = caller.frames * self._plan.frame_samples
        sent_s = caller.sent_s
        holding = (end - 1) // self._message_samples
        if holding >= len(sent_s) or not self._measure_from <= sent_s[holding] < self._measure_to:
            return
        completing = (end + self._plan.context_samples - 1) // self._message_samples
        if completing < len(sent_s):  # false for frames that are flushed at the end
            self.lags.append(now - sent_s[holding])
            self.answers.append(now - sent_s[completing])

    def _end(self, caller: LoadClient, code: int, reason: str) -> None:
        if caller.ended:
            return
        caller.ended = True
        caller.code, caller.reason = code, caller.reason or reason
        self._open -= 1
        if not self._open:
            self._all_ended.set()

    def _judge(self, caller: LoadClient, outcome: Outcome) -> None:
        """Add the lost frames and failures of one stream to the outcome."""
        due = -(-len(caller.sent_s) * self._message_samples // self._plan.frame_samples)
        outcome.lost_frames += caller.lost + max(0, due - caller.frames)
        if caller.code == 1000 and caller.summary:
            return
        outcome.failed += 1
        if outcome.reason is None:
            outcome.reason = caller.reason or ("never became ready" if not caller.ready else "did not end in time")


def run_plan(plan: Plan, audio: bytes) -> tuple[Outcome, Timings]:
    """Run a plan in this process; with uvloop, if it is installed, which halves the cost of a message."""
    try:
        factory = import_module("uvloop").new_event_loop
    except ImportError:
        factory = None

    async def play() -> tuple[Outcome, Timings]:
        load = Load(plan, audio)
        return await load.run(), (load.lags, load.answers, load.late)

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(play())


def main() -> None:
    """Read the plan, run it, write the outcome."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    plan = Plan(**json.loads(source.readline()))
    audio = source.read()
    sink.write(b"begun\n")
    sink.flush()
    outcome, timings = run_plan(plan, audio)
    sink.write(json.dumps(asdict(outcome)).encode() + b"\n")
    for values in timings:
        sink.write(memoryview(values))
    sink.flush()


if __name__ == "__main__":
    main()
