"""`POST /v1/inspect`: takes a recording, returns scores, events, levels, a summary and a verdict."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from speech_qc.admission.memory import Reservation
from speech_qc.admission.uploads import ClientLeft
from speech_qc.api.body import Upload, body_limits, open_upload, wait_for_disconnect
from speech_qc.api.deps import From, RequestId, State
from speech_qc.api.inspect_options import (
    NAMES,
    InspectQuery,
    form_properties,
    given_options,
    merged,
    parameters,
    parsed,
)
from speech_qc.audio import RawFormat
from speech_qc.audio.decode import Decoder
from speech_qc.audio.raw_format import parse_channels, raw_format
from speech_qc.model.reload import Generation
from speech_qc.pipeline.capture import CaptureInspector, not_a_capture, rtp_options
from speech_qc.pipeline.documents import choose_labels, export_report, inspection_document
from speech_qc.pipeline.factory import decode_limits, make_lanes
from speech_qc.pipeline.inspector import Inspector
from speech_qc.pipeline.recording import InspectOptions, RecordingFindings, recorded_legs
from speech_qc.rtp.capture import MAGIC_BYTES, is_capture
from speech_qc.scoring import EXPORTS
from speech_qc.state import AppState
from speech_qc.telemetry.tracing import note
from speech_qc.wire.encode import to_json
from speech_qc.wire.schemas import ErrorAnswer, InspectAnswer

router = APIRouter()

WARNINGS_HEADER, PROFILE_HEADER = "X-Warnings", "X-Profile"
"""Headers of label tracks, which have no place for the warnings of the recording and the name of the profile."""

AUDIO_TYPES = (
    "audio/wav", "audio/flac", "audio/ogg", "audio/mpeg", "audio/mp4", "audio/webm", "application/octet-stream",
    "application/vnd.tcpdump.pcap",
)  # fmt: skip

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "description": "The recording itself, or a multipart form with the recording in a part named `file`. Form fields "
    "may replace query options; they have to precede the part `file`.",
    "content": dict.fromkeys(AUDIO_TYPES, _BINARY)
    | {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": form_properties() | {"file": {"type": "string", "format": "binary"}},
            }
        }
    },
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "JSON, or the events as a label track in the requested format",
        "content": {export.media_type.split(";")[0]: {} for export in EXPORTS.values()},
    },
    400: {"model": ErrorAnswer, "description": "Invalid option or multipart body"},
    401: {"model": ErrorAnswer, "description": "No valid key, if the server has keys"},
    403: {"model": ErrorAnswer, "description": "The request is from a web page of an origin that is not allowed"},
    408: {"model": ErrorAnswer, "description": "The recording arrived too slowly"},
    413: {"model": ErrorAnswer, "description": "Too many bytes, seconds or channels"},
    415: {"model": ErrorAnswer, "description": "Unsupported audio format"},
    422: {"model": ErrorAnswer, "description": "Broken audio: empty, not finite, or with an invalid header"},
    429: {"model": ErrorAnswer, "description": "Overloaded; retry after the time in `Retry-After`"},
    500: {"model": ErrorAnswer, "description": "An inference step failed"},
    503: {"model": ErrorAnswer, "description": "Draining, or the engine is dead"},
    504: {"model": ErrorAnswer, "description": "Accepted, but not finished in time"},
}


@router.post(
    "/v1/inspect",
    tags=["inspect"],
    summary="Inspect a recording",
    response_model=InspectAnswer,
    responses=_ANSWERS,
    openapi_extra={"parameters": parameters(), "requestBody": _REQUEST_BODY},
)
async def inspect(request: Request, state: State, identity: RequestId, caller: From) -> Response:
    """Inspect a recording, sent as the request body or as a multipart part named `file`.

    Any `audio/*` content type is accepted; the format is detected from the bytes. Supported formats are WAV, RF64, W64,
    AIFF, AU, CAF, FLAC, Ogg Vorbis, Ogg Opus, MP3 and all others that libsndfile reads, at 8 to 192 kHz; with the extra
    `media` also WebM, MP4, M4A, AMR, WMA and the sound of video files. WAV is scored while it arrives.

    Of a packet capture (pcap, pcapng), each RTP stream is a channel; `capture` describes the streams.
    """
    query = given_options(request.query_params.multi_items())
    with state.models.current.held() as generation:
        choice = _Choice.of(query, state, generation)  # refuses a wrong option before the body arrives
        with state.uploads.take(caller) as reservation:
            upload = await open_upload(request, body_limits(state.settings), NAMES)
            if upload.fields:
                choice = _Choice.of(merged(query, upload.fields), state, generation)
            inspection = await _inspect(state, generation, request, upload, choice, reservation)
            note({f"speechqc.{stage}_s": seconds for stage, seconds in inspection.timing.stages().items()})
            note({"speechqc.audio_s": inspection.duration_s, "speechqc.channels": len(inspection.channels)})
            if choice.is_json:  # encode while the memory is still reserved
                content = await asyncio.to_thread(_encoded, inspection, generation, identity, choice)
    _count_result(state, inspection)
    if choice.is_json:
        return _HeldResponse(state, content)
    export = EXPORTS[choice.query.format]
    name = PurePath(upload.filename or "recording").name
    report = export_report(inspection, generation.contract, name, choice.labels)
    headers = {"Content-Disposition": f'attachment; filename="inspection.{export.extension}"'}
    headers |= {PROFILE_HEADER: choice.profile.encode("ascii", "replace").decode()}
    if inspection.warnings:
        headers[WARNINGS_HEADER] = ", ".join(dict.fromkeys(warning.code for warning in inspection.warnings))
    return StreamingResponse(export.render(report), media_type=export.media_type, headers=headers)


@dataclass(frozen=True, slots=True)
class _Choice:
    """What a client has asked for, once it is known to exist.

    Attributes:
        query: The options.
        labels: Labels to return.
        profile: Name of the verdict profile.
        options: Options of the inspection.
    """

    query: InspectQuery
    labels: tuple[str, ...]
    profile: str
    options: InspectOptions

    @classmethod
    def of(cls, given: Mapping[str, str], state: AppState, generation: Generation) -> _Choice:
        """Look up labels and profile.

        Raises:
            ProtocolError: A value is invalid, or there is no such label or profile.
        """
        query, settings = parsed(given), state.settings
        profile, is_json = query.profile or settings.default_profile, query.format == "json"
        mode = parse_channels(query.channels)[1]
        legs = recorded_legs(query.legs, mode)
        options = InspectOptions(
            state.profiles.get(profile),
            mode,
            query.frames and is_json,
            settings.max_events,
            query.explain and is_json,
            settings.upload_deadline_s,
            settings.show_digits,
            legs if is_json else None,
        )
        return cls(query, choose_labels(generation.contract, query.labels), profile, options)

    @property
    def raw(self) -> RawFormat | None:
        """Format of audio without a header; None for a recording with one.

        Raises:
            ProtocolError: An option is missing, or is only for audio without a header.
        """
        return raw_format(self.query.encoding, self.query.sample_rate, parse_channels(self.query.channels)[0])

    @property
    def is_mixed(self) -> bool:
        """Whether the mean of all channels is wanted."""
        return self.options.channels == "mix"

    @property
    def is_json(self) -> bool:
        """Whether the answer is the JSON document."""
        return self.query.format == "json"


def _encoded(inspection: RecordingFindings, generation: Generation, identity: str, choice: _Choice) -> bytes:
    """Encode the JSON answer; in a worker thread, since it may list thousands of events and hours of frames."""
    document = inspection_document(
        inspection,
        generation.contract,
        generation.identity,
        request_id=identity,
        profile=choice.profile,
        labels=choice.labels,
        frames=choice.query.frames,
    )
    return to_json(document)


class _HeldResponse(Response):
    """A response that counts towards the memory budget until its bytes are in the connection's write buffer."""

    def __init__(self, state: AppState, content: bytes) -> None:
        super().__init__(content, media_type="application/json")
        self._memory = state.memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        with self._memory.sending(len(self.body)):
            await super().__call__(scope, receive, send)


async def _inspect(
    state: AppState,
    generation: Generation,
    request: Request,
    upload: Upload,
    choice: _Choice,
    reservation: Reservation,
) -> RecordingFindings:
    limits = decode_limits(state.settings)
    pieces = upload.pieces if choice.raw is not None else await _peeked(upload)
    complete = asyncio.Event()
    arguments = (generation.engine, generation.contract, make_lanes(state.settings), choice.options, reservation.set)
    async with AsyncExitStack() as stack:
        if choice.raw is None and is_capture(upload.head):
            rtp = rtp_options(limits, choice.query.payload_types, mix=choice.is_mixed, explain=choice.options.explain)
            capturing = await stack.enter_async_context(CaptureInspector(*arguments))
            work = capturing.inspect_capture(_until(pieces, complete), limits, rtp)
        elif choice.query.payload_types is not None:
            raise not_a_capture()
        else:
            decoder = Decoder(limits, upload.content_type, upload.filename, upload.total_bytes, choice.raw)
            inspector = await stack.enter_async_context(Inspector(*arguments))
            work = inspector.inspect_bytes(_until(pieces, complete), decoder)
        inspecting = asyncio.create_task(work)
        leaving = asyncio.create_task(_leaves(request, complete))
        try:
            await asyncio.wait({inspecting, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not inspecting.done():
                raise ClientLeft("the client disconnected before its recording was inspected")
            return inspecting.result()
        finally:
            inspecting.cancel()
            leaving.cancel()
            await asyncio.wait({inspecting, leaving})
            # Breaks a reference cycle (error, frame, task) that would keep the recording in memory.
            del inspecting, leaving


async def _peeked(upload: Upload) -> AsyncIterator[bytes]:
    """Read the first bytes to tell what is sent, and return all pieces."""
    first = b""
    async for piece in upload.pieces:
        first += piece
        if len(first) >= MAGIC_BYTES:
            break
    upload.head = first[:MAGIC_BYTES]

    async def pieces() -> AsyncIterator[bytes]:
        if first:
            yield first
        async for piece in upload.pieces:
            yield piece

    return pieces()


async def _until(pieces: AsyncIterator[bytes], complete: asyncio.Event) -> AsyncIterator[bytes]:
    """Yield all pieces, then set `complete`: until then, no other task may read from the request."""
    async for piece in pieces:
        yield piece
    complete.set()


async def _leaves(request: Request, complete: asyncio.Event) -> None:
    """Wait until the body is complete and the client then disconnects, so that its place can be released."""
    await complete.wait()
    await wait_for_disconnect(request)


def _count_result(state: AppState, inspection: RecordingFindings) -> None:
    metrics = state.metrics
    metrics.audio_seconds.labels("upload").inc(sum(record.duration_s for record in inspection.channels))
    metrics.frames.inc(sum(record.frame_total for record in inspection.channels))
    for stage, seconds in inspection.timing.stages().items():
        metrics.upload_stage_seconds.labels(stage).observe(seconds)
    for record in inspection.channels:
        summary = record.summary
        metrics.verdicts.labels(record.verdict.status).inc()
        metrics.noisy_frames.labels("upload").inc(round((summary.noise_ratio or 0.0) * summary.frames))
        metrics.end_channel("upload", summary.snr_db, Counter(event.label for event in record.events))
