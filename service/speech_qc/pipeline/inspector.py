"""One recording from its first byte to its record: decoder, a session per channel, the engine.

The server feeds it an upload while that arrives, the command line feeds it a file; both get the same answer. Decoding
and resampling run in a worker thread, inference in the engine's; the event loop only carries chunks. It must not know
HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from service.assembly import TAIL_LANE, UPLOAD_LANE
from service.audio import AudioInfo, DecodeLimits
from service.audio.decode import Decoder, decode_file
from service.audio.features import FrontEnd
from service.contract import ModelContract
from service.engine import Engine, Lane, StepResult
from service.errors import DeadlineExceeded, InvalidAudio
from service.explain import MAX_FRAMES, Evidence, Explainer, SpectrumKeeper
from service.scoring import Profile
from service.session import ChannelRecord, ChunkReader, Session

Block = NDArray[np.float32]
ChannelMode = Literal["split", "mix"]
_Decode = Callable[[], list[Block]]

FRAME_BYTES, BARE_FRAME_BYTES = 300, 80
"""Memory of one frame of one channel until its answer is made, with its scores and without; rounded up from
`benchmarks/bench_held.py`."""


class _Source(Protocol):
    """A decoder, as far as its header is concerned."""

    @property
    def info(self) -> AudioInfo | None:
        """Known once the header is read."""

    @property
    def held_bytes(self) -> int:
        """Of the recording, in memory."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds spent, summed over channels; a step that is shared counts whole for each that shares it."""

    decode_s: float
    features_s: float
    queue_s: float
    inference_s: float
    total_s: float

    def stages(self) -> dict[str, float]:
        """Seconds by the name of their stage, for metrics and traces."""
        return {
            "decode": self.decode_s,
            "features": self.features_s,
            "queue": self.queue_s,
            "inference": self.inference_s,
            "total": self.total_s,
        }


@dataclass(frozen=True, slots=True)
class Inspection:
    """Everything that is said of one recording."""

    audio: AudioInfo
    channels: list[ChannelRecord]
    timing: Timing
    evidence: list[list[Evidence]] | None = None
    """For each event of each channel, in their order; None when nobody asked."""

    @property
    def duration_s(self) -> float:
        """Seconds of audio."""
        return self.channels[0].duration_s

    @property
    def frame_total(self) -> int:
        """Output frames of each channel."""
        return self.channels[0].frame_total


@dataclass(frozen=True, slots=True)
class InspectOptions:
    """What the caller wants to know.

    Args:
        profile: Limits of the verdict.
        channels: Each channel by itself, or their mean.
        keep_frames: Keep the scores of every frame.
        max_events: Events kept per channel.
        explain: Give evidence for each event; the scores are kept for that, too.
        deadline_s: Longest work, decoding and inference together; waiting for bytes does not count. None: no bound.
    """

    profile: Profile
    channels: ChannelMode = "split"
    keep_frames: bool = True
    max_events: int = 10_000
    explain: bool = False
    deadline_s: float | None = None


class Inspector:
    """Inspects one recording; an async context manager, so that its places in the engine are given back.

    Args:
        engine: Started.
        contract: Of the engine's model.
        lanes: The engine's lanes by name; `upload` and `upload_tail` are used.
        options: What to keep and how to judge.
        hold: Told now and then how many bytes the inspection holds in memory; what it raises ends the inspection.
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
        self._engine, self._contract, self._options = engine, contract, options
        self._upload, self._tail = by_name[UPLOAD_LANE], by_name[TAIL_LANE]
        self._reader = ChunkReader(contract)
        self._sessions: list[Session] = []
        self._keepers: list[SpectrumKeeper] = []  # one per session when evidence is wanted, else none
        self._numbers: list[int] = []
        self._started_s = time.perf_counter()
        self._decode_s = self._features_s = self._queue_s = self._step_s = self._worked_s = 0.0

    async def __aenter__(self) -> Self:
        """Nothing is taken from the engine until the header is known."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the places in the engine back, however the inspection ended."""
        numbers, self._numbers = self._numbers, []
        for number in numbers:
            self._engine.close_session(number)

    async def inspect_bytes(self, pieces: AsyncIterator[bytes], decoder: Decoder) -> Inspection:
        """Inspect a recording while its bytes arrive.

        Raises:
            ClientError: The bytes are not a recording within the limits.
            CapacityError: There is no room now, or the work took too long.
            InferenceError: A step failed.
            EngineDead: No step will succeed.
        """
        async for piece in pieces:
            async with self._on_time():
                await self._feed(lambda piece=piece: decoder.push(piece), decoder)  # type: ignore[misc]
        async with self._on_time():
            await self._feed_all(await asyncio.to_thread(decoder.finish), decoder)
            return await self._finish(decoder.info)

    async def inspect_file(self, path: Path, limits: DecodeLimits) -> Inspection:
        """Inspect a file on this machine, in constant memory but for the scores."""
        with await asyncio.to_thread(decode_file, path, limits) as file:
            await self._feed_all(iter(file), file)
            return await self._finish(file.info)

    @asynccontextmanager
    async def _on_time(self) -> AsyncIterator[None]:
        """Bound the work that is done inside by what is left of the deadline.

        Nothing can end a decoder that hangs within a block; its thread is left behind then, and its request answered.
        """
        limit_s, started_s = self._options.deadline_s, time.perf_counter()
        try:
            async with asyncio.timeout(None if limit_s is None else max(0.0, limit_s - self._worked_s)):
                yield
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"the work on this recording took more than {limit_s:g} s: send a shorter one, or again when the "
                "server is less busy",
                deadline_s=limit_s,
            ) from error
        finally:
            self._worked_s += time.perf_counter() - started_s

    async def _feed_all(self, blocks: Iterator[Block], source: _Source) -> None:
        """Take blocks one by one, so that no more than one is in memory."""
        more = True

        def following() -> list[Block]:
            nonlocal more
            block = next(blocks, None)
            more = block is not None
            return [] if block is None else [block]

        while more:
            await self._feed(following, source)

    async def _feed(self, decode: _Decode, source: _Source) -> None:
        """Decode in a worker thread, push to the sessions, score what became complete."""

        def work() -> list[Block]:
            started_s = time.perf_counter()
            blocks = decode()
            if self._sessions:
                self._push(blocks)
            self._decode_s += time.perf_counter() - started_s
            return blocks

        had_sessions = bool(self._sessions)
        blocks = await asyncio.to_thread(work)
        if not had_sessions and blocks and source.info is not None:
            self._open(source.info)
            await asyncio.to_thread(self._push, blocks)
        await self._advance()
        if self._hold is not None:
            frames = sum(session.frames_done for session in self._sessions)
            keeps = self._options.keep_frames or self._options.explain
            self._hold(source.held_bytes + frames * (FRAME_BYTES if keeps else BARE_FRAME_BYTES))

    def _open(self, info: AudioInfo) -> None:
        """Take one place in the engine per channel, now that their number is known."""
        options = self._options
        count = 1 if options.channels == "mix" else info.channels
        if options.explain:
            front_end = FrontEnd(self._contract.features)
            self._keepers = [SpectrumKeeper(front_end, MAX_FRAMES // count) for _ in range(count)]
        for _ in range(count):
            self._numbers.append(self._engine.open_session())
            self._sessions.append(
                Session(
                    self._contract,
                    info.sample_rate_hz,
                    keep_frames=options.keep_frames or options.explain,
                    max_events=options.max_events,
                    reader=self._reader,
                )
            )

    def _push(self, blocks: list[Block]) -> None:
        for block in blocks:
            if self._options.channels == "mix":
                self._sessions[0].push(block.mean(axis=1, dtype=np.float32))
                continue
            for channel, session in enumerate(self._sessions):
                session.push(np.ascontiguousarray(block[:, channel]))

    async def _advance(self) -> None:
        """Score everything that is complete, all channels side by side."""
        if len(self._sessions) == 1:
            await self._advance_channel(0)
            return
        channels = range(len(self._sessions))
        outcomes = await asyncio.gather(*map(self._advance_channel, channels), return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    async def _advance_channel(self, channel: int) -> None:
        number, session = self._numbers[channel], self._sessions[channel]
        while (lane := self._next_lane(session)) is not None:
            chunk = session.take(lane.hops)
            if chunk is None:
                return
            result = await self._engine.submit(number, chunk, lane.name)
            self._count(result)
            session.accept(result.reading)
            if self._keepers:
                await asyncio.to_thread(self._keepers[channel].add, chunk)

    def _next_lane(self, session: Session) -> Lane | None:
        """Whole large chunks while audio comes; at the end a large one if it is mostly used, else small ones."""
        hops = session.remaining_hops
        if hops >= self._upload.hops:
            return self._upload
        if not session.finished or hops == 0:
            return None
        return self._upload if hops > self._upload.hops // 2 else self._tail

    def _count(self, result: StepResult) -> None:
        self._features_s += result.features_s
        self._queue_s += result.queue_s
        self._step_s += result.step_s - result.features_s

    async def _finish(self, info: AudioInfo | None) -> Inspection:
        """Flush every channel and put the record together."""
        if info is None or not self._sessions or self._sessions[0].samples_in == 0:
            raise InvalidAudio("expected samples, the recording holds none: upload the finished recording")
        for session in self._sessions:
            session.finish()
        await self._advance()
        records = [session.record(self._options.profile) for session in self._sessions]
        evidence = await asyncio.to_thread(self._explain, records) if self._options.explain else None
        total_s = time.perf_counter() - self._started_s
        timing = Timing(self._decode_s, self._features_s, self._queue_s, self._step_s, total_s)
        return Inspection(info, records, timing, evidence)

    def _explain(self, records: list[ChannelRecord]) -> list[list[Evidence]]:
        """Give the evidence for every event; takes about a millisecond each."""
        explainer = Explainer(self._contract)
        evidence = []
        for record, keeper in zip(records, self._keepers, strict=True):
            assert record.frames is not None  # the sessions were told to keep them
            evidence.append(explainer.explain(record.events, record.frames, keeper.kept()))
        return evidence
