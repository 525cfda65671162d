"""Inspects the RTP streams of a packet capture, each as a channel of its own with what it did not receive.

The reader of the capture runs in a thread when an engine scores (`CaptureInspector`), and in the calling thread when
there is none (`inspect_capture`); the results are the same.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import BinaryIO

from speech_qc.audio import AudioInfo, DecodeLimits
from speech_qc.audio.media_process import Spool
from speech_qc.audio.packet_decoders import PacketDecoders
from speech_qc.errors import ProtocolError
from speech_qc.pipeline.direct import LARGE_HOPS, DirectModel, DirectStepper
from speech_qc.pipeline.factory import TAIL_HOPS
from speech_qc.pipeline.gaps import Transport
from speech_qc.pipeline.inspector import BARE_FRAME_BYTES, FRAME_BYTES, Inspector
from speech_qc.pipeline.recording import InspectOptions, Recording, RecordingFindings, Timing
from speech_qc.rtp.codecs import Codec, parse_payload_types
from speech_qc.rtp.reader import CaptureReader, RtpOptions, no_streams
from speech_qc.rtp.reports import StreamReport, capture_report
from speech_qc.rtp.stream import LegAudio, LegItem

_BATCH_SAMPLES = 1 << 17
"""Sound that is read from a capture before it is scored, all legs together."""

OnItem = Callable[[LegItem], object]


def rtp_options(
    limits: DecodeLimits, payload_types: str | None, *, mix: bool = False, explain: bool = False
) -> RtpOptions:
    """Return how to read a capture.

    Args:
        limits: Limits on recordings; a stream counts as a channel.
        payload_types: Meaning of dynamic payload types, such as `96=opus/48000/2`.
        mix: Refused: the streams have lengths and gaps of their own.
        explain: Refused: evidence compares an event with the sound around it, and that may not have been received.

    Raises:
        ProtocolError: An option is wrong.
    """
    if mix or explain:
        raise ProtocolError(
            f"expected a recording for {'channels=mix' if mix else 'explain'}, got a packet capture: leave it out; "
            "each stream is a channel of its own"
        )
    known: dict[int, Codec] = parse_payload_types(payload_types)
    return RtpOptions(known, max_streams=limits.max_channels, max_duration_s=limits.max_duration_s)


def not_a_capture() -> ProtocolError:
    """Return the error for payload types with any other recording."""
    return ProtocolError("payload_types: expected a packet capture, got another recording: leave it out")


class CaptureRecording(Recording):
    """The legs of a capture; as `Recording`, but each leg has a rate, a length and gaps of its own."""

    def take(self, item: LegItem) -> None:
        """Take the next sound or gap of a leg; the first sound opens it."""
        if isinstance(item, LegAudio):
            if item.leg == len(self.sessions):
                self.sessions.append(self._session(item.rate_hz, gaps=True))
            self.sessions[item.leg].push(item.samples)
        else:
            self.sessions[item.leg].gap(item.samples, item.kind)


def _findings(
    reader: CaptureReader, recording: Recording, options: InspectOptions, timing: Timing
) -> RecordingFindings:
    """Collect what was found, once everything is scored."""
    report = capture_report(reader, show_digits=options.show_digits)
    legs = [stream for stream in report.streams if stream.channel is not None]
    by_leg = sorted(legs, key=lambda stream: stream.channel or 0)
    encoding = "+".join(dict.fromkeys(name for stream in legs for name in stream.codecs))
    rate_hz = max(stream.sample_rate_hz or 0 for stream in legs)
    records = [
        replace(record, transport=_transport(session.transport(), stream))
        for record, session, stream in zip(recording.records(), recording.sessions, by_leg, strict=True)
    ]
    info = AudioInfo(rate_hz, len(legs), f"pcap/{encoding}", None)
    return RecordingFindings(info, records, timing, reader.warnings(), capture=report)


def _transport(missing: Transport, stream: StreamReport) -> Transport:
    """Add how packets arrived to what is missing."""
    return replace(
        missing,
        late=stream.late,
        duplicates=stream.duplicates,
        reordered=stream.reordered,
        restarts=stream.restarts + stream.clock_resets,
        drift_ppm=None if stream.drift_ppm is None else round(stream.drift_ppm, 1),
    )


def inspect_capture(
    model: DirectModel,
    file: BinaryIO,
    rtp: RtpOptions,
    options: InspectOptions,
    on_step: Callable[[], object] = lambda: None,
    on_item: OnItem | None = None,
) -> RecordingFindings:
    """Inspect a capture in this thread.

    Args:
        model: The model.
        file: The capture, at its start.
        rtp: How to read it.
        options: What to keep and how to judge; the deadline is ignored.
        on_step: Called before each step of the model; if it raises, the inspection ends.
        on_item: Called with the sound and the gaps of all legs, each leg in order.

    Raises:
        ClientError: There is nothing to inspect, or a limit is exceeded.
        InferenceError: The model failed.
    """
    started_s = time.perf_counter()
    recording = CaptureRecording(model.contract, options, model.reader)
    steppers: list[DirectStepper] = []

    def advance(leg: int) -> None:
        if leg == len(steppers):
            steppers.append(model.stepper(1))
        session = recording.sessions[leg]
        while (hops := recording.next_hops(leg, LARGE_HOPS, TAIL_HOPS)) is not None:
            on_step()
            chunk = session.take(hops)
            assert chunk is not None  # there are that many hops
            recording.accept(leg, steppers[leg].step([chunk], hops)[0])

    with PacketDecoders() as decoders:
        reader = CaptureReader(file, rtp, decoders)
        for item in reader:
            recording.take(item)
            if on_item is not None:
                on_item(item)
            advance(item.leg)
    if not recording.sessions:
        raise no_streams(reader)
    recording.finish()
    for leg in range(len(recording.sessions)):
        advance(leg)
    features_s = sum(stepper.features_s for stepper in steppers)
    inference_s = sum(stepper.inference_s for stepper in steppers)
    total_s = time.perf_counter() - started_s
    timing = Timing(max(0.0, total_s - features_s - inference_s), features_s, 0.0, inference_s, total_s)
    return _findings(reader, recording, options, timing)


class CaptureInspector(Inspector):
    """Inspects an uploaded capture through the engine; arguments as for `Inspector`."""

    def _make_recording(self) -> CaptureRecording:
        return CaptureRecording(self._contract, self._options)

    async def inspect_capture(
        self, pieces: AsyncIterator[bytes], limits: DecodeLimits, rtp: RtpOptions
    ) -> RecordingFindings:
        """Inspect a capture; it is collected first, in memory, because its streams are known only at its end.

        Args:
            pieces: Its bytes.
            limits: Limit on them.
            rtp: How to read it.

        Raises:
            ClientError: There is nothing to inspect, or a limit is exceeded.
            CapacityError: There is no room now, or the work took too long.
            InferenceError: A step failed.
            EngineDead: No further step can succeed.
        """
        with Spool() as spool, PacketDecoders() as decoders:
            count = 0
            async for piece in pieces:
                count += len(piece)
                limits.check_bytes(count, "already received")
                await asyncio.to_thread(spool.write, piece)
                self._note_held(count)
            spool.seek(0)
            async with self._on_time():
                reader = CaptureReader(io.BufferedReader(spool, 1 << 20), rtp, decoders)
                await self._read(reader, count)
                return await self._end(reader)

    def _note_held(self, held_bytes: int) -> None:
        """As `Inspector`, but with the frames that the legs will have."""
        frame_bytes = FRAME_BYTES if self._options.needs_frames else BARE_FRAME_BYTES
        seconds = sum(session.position / session.rate_hz for session in self._recording.sessions)
        frames = int(seconds / self._contract.features.frame_hop_s)
        if self._hold is not None:
            self._hold(held_bytes + frames * frame_bytes)

    async def _read(self, reader: CaptureReader, held_bytes: int) -> None:
        """Read the capture in a worker thread, batch by batch, and score what is complete."""
        recording = self._recording
        assert isinstance(recording, CaptureRecording)
        items = iter(reader)
        more = True
        while more:
            more = await asyncio.to_thread(self._timed, lambda: _take_some(items, recording))
            self._note_held(held_bytes)  # before frames are made: a gap of hours is a few bytes of the capture
            self._open_sessions()
            await self._advance()

    async def _end(self, reader: CaptureReader) -> RecordingFindings:
        if not self._recording.sessions:
            raise no_streams(reader)
        self._recording.finish()
        await self._advance()
        timing = self._timing()
        return await asyncio.to_thread(_findings, reader, self._recording, self._options, timing)


def _take_some(items: Iterator[LegItem], recording: CaptureRecording) -> bool:
    """Take items until there is enough to score; return whether there may be more."""
    count = 0
    for item in items:
        recording.take(item)
        count += item.samples if isinstance(item.samples, int) else len(item.samples)
        if count >= _BATCH_SAMPLES:
            return True
    return False
