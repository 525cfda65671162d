"""Inspects many recordings in one thread, so that they share inference steps.

A short recording alone makes small steps, which cost up to three times as much per second of audio as shared ones.
Scores do not depend on which recordings share a step.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from speech_qc.audio.features import FrontEnd
from speech_qc.engine import Lane, Runner, Stepper
from speech_qc.errors import InferenceError
from speech_qc.pipeline.channel_meter import MeterPool
from speech_qc.pipeline.chunk_reader import ChunkReader
from speech_qc.pipeline.direct import LARGE_HOPS
from speech_qc.pipeline.factory import TAIL_HOPS
from speech_qc.pipeline.recording import Block, InspectOptions, Recording, RecordingFindings, Timing
from speech_qc.pipeline.session import Session
from speech_qc.pipeline.sources import BlockSource

WIDTH = 16
"""Recordings that are open at the same time; more of them make steps no faster."""
SHARED_FROM = 4
"""Channels from which steps are shared; fewer get large chunks, as a recording alone does."""
SHARED_HOPS, SHARED_TAIL_HOPS = 100, 20
SLOTS = 64
"""Channels that are scored at the same time, unless one recording has more."""

Outcome = RecordingFindings | Exception


class Entry(NamedTuple):
    """A recording in a queue.

    Args:
        number: Its number.
        source: Its audio.
        is_held: Whether its samples are in memory, so that the next one of its queue need not wait for its end.
    """

    number: int
    source: BlockSource
    is_held: bool = False


Queue = Iterator[Entry]
"""Recordings that are read one after the other, as the parts of a file; the next one is asked for when the one before
it is held or done."""


class _Open:
    """One recording that is being inspected.

    Args:
        entry: What it is.
        queue: Where the next one comes from when this one is done; None if it need not wait.
        recording: Its state.
    """

    def __init__(self, entry: Entry, queue: Queue | None, recording: Recording) -> None:
        self.number, self.source = entry.number, entry.source
        self.queue, self.recording = queue, recording
        self.slots: list[int] = []
        self.hops: int | None = None
        """Hops of the next chunk of each channel."""
        self.outcome: Outcome | None = None
        self._blocks = iter(entry.source)
        self._block: Block | None = None
        """What is decoded and not pushed yet."""
        self.is_ending = False
        """Whether `finish` is to be called."""
        self._ended = False

    @property
    def channels(self) -> int:
        """Channels to score, after `open`."""
        return len(self.recording.sessions)

    def open(self) -> None:
        """Decode the first block; what goes wrong becomes the outcome."""
        try:
            self._block = next(self._blocks, None)
            if self._block is not None:
                info = self.source.info
                assert info is not None  # a source that yields blocks has read the header
                self.recording.open(info)
        except Exception as error:  # decoders and openers of others can raise anything; the other recordings go on
            self.outcome = error

    def feed(self, large: int, small: int) -> bool:
        """Push one piece, unless there is a chunk for each channel or everything is scored; return whether it is so.

        Then the hops or the outcome is set. Pieces of all recordings in turn are measured together.
        """
        try:
            self.hops = self.recording.next_hops(0, large, small) if self.channels else None
            if self.hops is None and self._ended:
                self.outcome = self._findings()
            elif self.hops is None:
                self._push()
        except Exception as error:  # as in `open`
            self.outcome = error
        return self.hops is not None or self.outcome is not None

    def finish(self) -> None:
        """Note that there is no more audio."""
        self.is_ending, self._ended = False, True
        try:
            self.recording.finish()
        except Exception as error:  # as in `open`
            self.outcome = error

    def _push(self) -> None:
        block = next(self._blocks, None) if self._block is None else self._block
        if block is None:
            self.is_ending = True
            return
        size = self.recording.piece_samples
        self._block = block[size:] if len(block) > size else None
        self.recording.push([block[:size]])

    def _findings(self) -> RecordingFindings:
        records, info = self.recording.records(), self.source.info
        assert info is not None
        evidence = self.recording.explain(records)
        timing = Timing(0.0, 0.0, 0.0, 0.0, 0.0)  # the time of a shared step belongs to no recording
        return RecordingFindings(info, records, timing, self.source.warnings, evidence, self.recording.stereo())


class Together:
    """A loaded model that inspects many recordings at a time; used by one thread.

    Args:
        runner: The model; a runner with fixed shapes must have no other user, since it keeps its buffers.
        max_channels: Maximum channels of one recording.
    """

    def __init__(self, runner: Runner, max_channels: int) -> None:
        self.runner = runner
        self._contract = runner.contract
        self._reader = ChunkReader(runner.contract)
        self._pool = MeterPool()
        self._capacity = max(SLOTS, max_channels)
        self._steps = Stepper(
            runner, FrontEnd(runner.contract.features), self._reader, capacity=self._capacity, max_batch=self._capacity
        )

    def inspect(self, queues: Iterable[Queue], options: InspectOptions) -> Iterator[tuple[int, Outcome]]:
        """Inspect recordings.

        Args:
            queues: Recordings; those of different queues, and those that are held, are inspected at the same time.
            options: What to keep and how to judge; the deadline is ignored.

        Yields:
            The number of a recording and what was found, or the error that ended it, in the order in which they end.

        Raises:
            Exception: The model failed for a whole step, so for no fault of one recording.
        """
        unopened = iter(queues)
        begun: deque[Queue] = deque()  # whose next recording need not wait
        waiting: deque[_Open] = deque()  # for slots
        active: list[_Open] = []
        free = list(range(self._capacity))
        while True:
            while len(active) + len(waiting) < WIDTH:
                queue = begun.popleft() if begun else next(unopened, None)
                if queue is None:
                    break
                entry = next(queue, None)
                if entry is None:
                    continue
                if entry.is_held:
                    begun.appendleft(queue)
                waiting.append(self._open(entry, None if entry.is_held else queue, options))
            while waiting and waiting[0].channels <= len(free):
                one = waiting.popleft()
                one.slots = [free.pop() for _ in range(one.channels)]
                for slot in one.slots:
                    self._steps.reset(slot)
                active.append(one)
            if not active:
                return  # all slots are free, so nobody waits
            self._advance(active)
            ended = [one for one in active if one.outcome is not None]
            active = [one for one in active if one.outcome is None]
            for one in ended:
                assert one.outcome is not None
                free += one.slots
                if one.queue is not None:
                    begun.append(one.queue)
                yield one.number, one.outcome

    def _open(self, entry: Entry, queue: Queue | None, options: InspectOptions) -> _Open:
        opened = _Open(entry, queue, Recording(self._contract, options, self._reader, self._pool))
        opened.open()
        return opened

    def _advance(self, active: list[_Open]) -> None:
        """Score one chunk of each channel of each recording."""
        is_shared = sum(one.channels for one in active) >= SHARED_FROM
        large, small = (SHARED_HOPS, SHARED_TAIL_HOPS) if is_shared else (LARGE_HOPS, TAIL_HOPS)
        steps: dict[int, list[_Open]] = defaultdict(list)
        hungry = [one for one in active if one.outcome is None]
        while hungry:
            hungry = [one for one in hungry if not one.feed(large, small)]
            ending = [one for one in hungry if one.is_ending]
            sounding = (one.recording.sessions for one in ending if not one.recording.is_empty)
            Session.measure_ends(session for sessions in sounding for session in sessions)
            for one in ending:
                one.finish()
            hungry = [one for one in hungry if one.outcome is None]
        for one in active:
            if one.outcome is None:
                assert one.hops is not None
                steps[one.hops].append(one)
        for hops, sharing in steps.items():
            self._score(hops, sharing)

    def _score(self, hops: int, sharing: list[_Open]) -> None:
        slots = [slot for one in sharing for slot in one.slots]
        cut = (session.take(hops) for one in sharing for session in one.recording.sessions)
        chunks = [chunk for chunk in cut if chunk is not None]
        found = self._steps.run(Lane("together", hops, priority=0), slots, chunks)
        readings, usable = iter(found.readings), iter(found.usable)
        for one in sharing:
            for channel in range(one.channels):
                reading, is_usable = next(readings), next(usable)
                if not is_usable:
                    one.outcome = InferenceError("the model returned scores that are not finite for this recording")
                elif one.outcome is None:
                    one.recording.accept(channel, reading)
