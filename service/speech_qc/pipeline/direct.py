"""Runs the model without an engine: each caller runs its own steps, in its own thread.

For programs that inspect a few recordings or streams of their own. The engine of a server shares steps among hundreds
of streams instead; both use the same front end, model and sessions, so the results are the same. No asyncio is needed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

from speech_qc.audio.features import FrontEnd
from speech_qc.engine import Lane, Runner, Stepper
from speech_qc.errors import InferenceError
from speech_qc.pipeline.chunk_reader import ChunkReader, ChunkReading
from speech_qc.pipeline.factory import TAIL_HOPS
from speech_qc.pipeline.recording import Block, InspectOptions, Recording, RecordingFindings, Timing
from speech_qc.pipeline.sources import BlockSource

LARGE_HOPS = 400
"""Hops in one chunk of a recording; `TAIL_HOPS` at its end, where a large chunk would be mostly padding."""


class DirectModel:
    """A loaded model and the parts that all its users share; any thread can create a `DirectStepper`.

    Args:
        runner: The model; never warmed up here, since its prepared buffers are for one thread.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.contract = runner.contract
        self.reader = ChunkReader(runner.contract)
        self._front_end = FrontEnd(runner.contract.features)
        # Where shapes are fixed, a runner may keep one set of buffers for each shape.
        self._exclusive: AbstractContextManager[object] = threading.Lock() if runner.fixed_shapes else nullcontext()

    def stepper(self, channels: int) -> DirectStepper:
        """Create the state of this number of channels, which are scored together."""
        return DirectStepper(self.runner, self._front_end, self.reader, channels, self._exclusive)


class DirectStepper:
    """State of channels that advance together; used by one thread at a time.

    Args:
        runner: The model.
        front_end: Front end for the same contract.
        reader: Reader for the same contract.
        channels: Number of channels.
        exclusive: Held during each call of the runner.
    """

    def __init__(
        self,
        runner: Runner,
        front_end: FrontEnd,
        reader: ChunkReader,
        channels: int,
        exclusive: AbstractContextManager[object],
    ) -> None:
        self._exclusive = exclusive
        self._steps = Stepper(runner, front_end, reader, capacity=channels, max_batch=channels, pad_to_bucket=False)
        self._channels = range(channels)
        self.features_s = self.inference_s = 0.0
        """Seconds spent so far."""

    def step(self, chunks: Sequence[Block], hops: int) -> list[ChunkReading]:
        """Score one chunk of each channel.

        Args:
            chunks: float32 (hops * hop + overlap,), one per channel.
            hops: Hops in each chunk.

        Raises:
            InferenceError: The model failed.
        """
        started_s = time.perf_counter()
        with self._exclusive:
            found = self._steps.run(Lane("direct", hops, priority=0), self._channels, chunks)
        if not found.usable.all():
            raise InferenceError("the model returned scores that are not finite: the model file may be damaged")
        self.features_s += found.features_s
        self.inference_s += time.perf_counter() - started_s - found.features_s
        return list(found.readings)


def inspect_blocks(
    model: DirectModel,
    source: BlockSource,
    options: InspectOptions,
    on_step: Callable[[], object] = lambda: None,
) -> RecordingFindings:
    """Inspect one recording in this thread.

    Args:
        model: The model.
        source: The recording.
        options: What to keep and how to judge; the deadline is ignored.
        on_step: Called before each step; if it raises, the inspection ends.

    Raises:
        ClientError: The audio cannot be inspected.
        InferenceError: The model failed.
    """
    started_s = time.perf_counter()
    recording = Recording(model.contract, options, model.reader)
    stepper: DirectStepper | None = None
    info, decode_s = source.info, 0.0

    def advance() -> None:
        if stepper is None:
            return
        channels = range(len(recording.sessions))
        # All channels hold the same number of samples, so they need the same chunk.
        while (hops := recording.next_hops(0, LARGE_HOPS, TAIL_HOPS)) is not None:
            on_step()
            chunks = [chunk for session in recording.sessions if (chunk := session.take(hops)) is not None]
            for channel, reading in zip(channels, stepper.step(chunks, hops), strict=True):
                recording.accept(channel, reading)
                recording.keep_spectrum(channel, chunks[channel])

    for block, seconds in _timed(source):
        if stepper is None:
            info = source.info
            assert info is not None  # a source that yields blocks has read the header
            recording.open(info)
            stepper = model.stepper(len(recording.sessions))
        pushed_s = time.perf_counter()
        recording.push([block])
        decode_s += seconds + time.perf_counter() - pushed_s
        advance()
    recording.finish()
    assert info is not None and stepper is not None  # or the recording would be empty
    advance()
    records = recording.records()
    evidence = recording.explain(records)
    interaction = recording.interaction()
    total_s = time.perf_counter() - started_s
    timing = Timing(decode_s, stepper.features_s, 0.0, stepper.inference_s, total_s)
    return RecordingFindings(info, records, timing, source.warnings, evidence, recording.stereo(), interaction)


def _timed(blocks: BlockSource) -> Iterator[tuple[Block, float]]:
    """Each block with the seconds that it took to decode."""
    source = iter(blocks)
    while True:
        started_s = time.perf_counter()
        block = next(source, None)
        if block is None:
            return
        yield block, time.perf_counter() - started_s
