"""Inspects an upload while it arrives: decodes and resamples in a worker thread, scores through the engine.

The event loop only moves chunks. Independent of HTTP; `pipeline.direct` inspects without an engine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self, TypeVar

from speech_qc.audio.decode import Decoder
from speech_qc.contract import ModelContract
from speech_qc.engine import Engine, Lane, StepResult
from speech_qc.errors import DeadlineExceeded
from speech_qc.pipeline.factory import TAIL_LANE, UPLOAD_LANE
from speech_qc.pipeline.recording import Block, InspectOptions, Recording, RecordingFindings, Timing

_Decode = Callable[[], list[Block]]
_Result = TypeVar("_Result")

FRAME_BYTES, BARE_FRAME_BYTES = 300, 80
"""Memory per frame and channel until the response is built, with scores and without; rounded up from
`benchmarks/bench_held.py`."""


class Inspector:
    """Inspects one recording; an async context manager that closes its engine sessions on exit.

    Args:
        engine: Started engine.
        contract: Contract of the engine's model.
        lanes: The engine's lanes by name; `upload` and `upload_tail` are used.
        options: What to keep and how to judge.
        hold: Called periodically with the bytes of memory that the inspection uses; if it raises, the inspection ends.
    """

    def __init__(
        self,
        engine: Engine,
        contract: ModelContract,
        lanes: Iterable[Lane],
        options: InspectOptions,
        hold: Callable[[int], object] | None = None,
    ) -> None:
        self._hold = hold
        by_name = {lane.name: lane for lane in lanes}
        self._engine, self._options = engine, options
        upload, tail = by_name[UPLOAD_LANE], by_name[TAIL_LANE]
        self._large, self._small = upload.hops, tail.hops
        self._lanes = {upload.hops: upload.name, tail.hops: tail.name}
        self._contract = contract
        self._recording = self._make_recording()
        self._numbers: list[int] = []
        self._started_s = time.perf_counter()
        self._decode_s = self._features_s = self._queue_s = self._step_s = self._worked_s = 0.0

    async def __aenter__(self) -> Self:
        """Return self; no engine session is opened until the header of the recording is known."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the engine sessions, however the inspection ended."""
        numbers, self._numbers = self._numbers, []
        for number in numbers:
            self._engine.close_session(number)

    def _make_recording(self) -> Recording:
        return Recording(self._contract, self._options)

    async def inspect_bytes(self, pieces: AsyncIterator[bytes], decoder: Decoder) -> RecordingFindings:
        """Inspect a recording while its bytes arrive.

        Raises:
            ClientError: The bytes are not a recording within the limits.
            CapacityError: There is no room now, or the work took too long.
            InferenceError: A step failed.
            EngineDead: No further step can succeed.
        """
        try:
            async for piece in pieces:
                async with self._on_time():
                    await self._feed(lambda piece=piece: decoder.push(piece), decoder)  # type: ignore[misc]
            async with self._on_time():
                await self._feed_all(await asyncio.to_thread(decoder.finish), decoder)
                return await self._finish(decoder)
        finally:
            decoder.close()

    @asynccontextmanager
    async def _on_time(self) -> AsyncIterator[None]:
        """Limit the work that is done inside to the rest of the deadline.

        FFmpeg's process is then killed. A decoder in this process that hangs within a block cannot be stopped: its
        thread is abandoned, and the request is answered.
        """
        limit_s, started_s = self._options.deadline_s, time.perf_counter()
        try:
            async with asyncio.timeout(None if limit_s is None else max(0.0, limit_s - self._worked_s)):
                yield
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"the work on this recording took more than {limit_s:g} s: send a shorter one, or retry when the "
                "server is less busy",
                deadline_s=limit_s,
            ) from error
        finally:
            self._worked_s += time.perf_counter() - started_s

    async def _feed_all(self, blocks: Iterator[Block], decoder: Decoder) -> None:
        """Feed blocks one by one, so that only one is in memory."""
        more = True

        def following() -> list[Block]:
            nonlocal more
            block = next(blocks, None)
            more = block is not None
            return [] if block is None else [block]

        while more:
            await self._feed(following, decoder)

    async def _feed(self, decode: _Decode, decoder: Decoder) -> None:
        """Decode in a worker thread, push to the sessions, score the complete chunks."""
        recording = self._recording

        def work() -> list[Block]:
            blocks = decode()
            if recording.sessions:
                recording.push(blocks)
            return blocks

        was_open = bool(recording.sessions)
        blocks = await asyncio.to_thread(self._timed, work)
        if not was_open and blocks and decoder.info is not None:
            recording.open(decoder.info)
            self._open_sessions()
            await asyncio.to_thread(recording.push, blocks)
        await self._advance()
        self._note_held(decoder.held_bytes)

    def _timed(self, work: Callable[[], _Result]) -> _Result:
        """Do work that counts as decoding; in a worker thread."""
        started_s = time.perf_counter()
        try:
            return work()
        finally:
            self._decode_s += time.perf_counter() - started_s

    def _note_held(self, held_bytes: int) -> None:
        """Report the memory in use: what was collected of the recording, and the frames."""
        if self._hold is not None:
            frame_bytes = FRAME_BYTES if self._options.needs_frames else BARE_FRAME_BYTES
            self._hold(held_bytes + self._recording.frames_done * frame_bytes)

    def _open_sessions(self) -> None:
        """Open an engine session for each channel that has none yet."""
        for _ in self._recording.sessions[len(self._numbers) :]:
            self._numbers.append(self._engine.open_session())

    async def _advance(self) -> None:
        """Score all complete chunks, the channels concurrently."""
        channels = range(len(self._recording.sessions))
        if len(channels) == 1:
            await self._advance_channel(0)
            return
        outcomes = await asyncio.gather(*map(self._advance_channel, channels), return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    async def _advance_channel(self, channel: int) -> None:
        recording, number = self._recording, self._numbers[channel]
        while (hops := recording.next_hops(channel, self._large, self._small)) is not None:
            chunk = recording.sessions[channel].take(hops)
            if chunk is None:
                return
            result = await self._engine.submit(number, chunk, self._lanes[hops])
            self._count(result)
            recording.accept(channel, result.reading)
            if self._options.explain:
                await asyncio.to_thread(recording.keep_spectrum, channel, chunk)

    def _count(self, result: StepResult) -> None:
        self._features_s += result.features_s
        self._queue_s += result.queue_s
        self._step_s += result.step_s - result.features_s

    async def _finish(self, decoder: Decoder) -> RecordingFindings:
        """Flush every channel and collect the findings."""
        recording = self._recording
        recording.finish()
        info = decoder.info
        assert info is not None  # finish() refuses an empty recording
        await self._advance()
        records = recording.records()
        evidence = await asyncio.to_thread(recording.explain, records) if self._options.explain else None
        interaction = await asyncio.to_thread(recording.interaction) if self._options.legs else None
        return RecordingFindings(
            info, records, self._timing(), decoder.warnings, evidence, recording.stereo(), interaction
        )

    def _timing(self) -> Timing:
        total_s = time.perf_counter() - self._started_s
        return Timing(self._decode_s, self._features_s, self._queue_s, self._step_s, total_s)
