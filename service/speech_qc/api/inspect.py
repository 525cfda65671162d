"""`POST /v1/inspect`: takes a recording, returns scores, events, levels, a summary and a verdict."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import PurePath
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from speech_qc.admission.memory import Reservation
from speech_qc.admission.uploads import ClientLeft
from speech_qc.api.body import Upload, body_limits, open_upload, wait_for_disconnect
from speech_qc.api.deps import From, RequestId, State
from speech_qc.audio.decode import Decoder
from speech_qc.model.reload import Generation
from speech_qc.pipeline.documents import choose_labels, export_report, inspection_document
from speech_qc.pipeline.factory import decode_limits, make_lanes
from speech_qc.pipeline.inspector import Inspector
from speech_qc.pipeline.recording import InspectOptions, RecordingFindings
from speech_qc.scoring import EXPORTS
from speech_qc.state import AppState
from speech_qc.telemetry.tracing import note
from speech_qc.wire.encode import to_json
from speech_qc.wire.schemas import ErrorAnswer, InspectAnswer
from speech_qc.wire.vocabulary import AnswerFormat, ChannelMode

router = APIRouter()

AUDIO_TYPES = ("audio/wav", "audio/flac", "audio/ogg", "audio/mpeg", "application/octet-stream")

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "description": "The recording itself, or a multipart form with one part named `file`.",
    "content": dict.fromkeys(AUDIO_TYPES, _BINARY)
    | {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {"file": {"type": "string", "format": "binary"}},
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
    422: {"model": ErrorAnswer, "description": "Broken audio: empty, truncated, not finite, or with an invalid header"},
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
    openapi_extra={"requestBody": _REQUEST_BODY},
)
async def inspect(
    request: Request,
    state: State,
    identity: RequestId,
    caller: From,
    frames: Annotated[bool, Query(description="Return the scores of every 20 ms frame.")] = True,
    channels: Annotated[ChannelMode, Query(description="Inspect each channel separately, or their mean.")] = "split",
    format: Annotated[AnswerFormat, Query(description="`json`, or only the events as a label track.")] = "json",
    profile: Annotated[str | None, Query(description="Verdict profile; GET /v1/model lists all.")] = None,
    labels: Annotated[str | None, Query(description="Comma-separated labels to return; all by default.")] = None,
    explain: Annotated[
        bool, Query(description="Return the evidence for each event: band, level, SNR, kind of sound.")
    ] = False,
) -> Response:
    """Inspect a recording, sent as the request body or as a multipart part named `file`.

    Any `audio/*` content type is accepted; the format is detected from the bytes. Supported formats are WAV, RF64, W64,
    AIFF, AU, CAF, FLAC, Ogg Vorbis, Ogg Opus, MP3 and all others that libsndfile reads, at 8 to 192 kHz. WAV is scored
    while it arrives.
    """
    with state.models.current.held() as generation:
        chosen = choose_labels(generation.contract, labels)
        limits = state.profiles.get(profile or state.settings.default_profile)
        is_json = format == "json"
        options = InspectOptions(
            limits,
            channels,
            frames and is_json,
            state.settings.max_events,
            explain and is_json,
            state.settings.upload_deadline_s,
            state.settings.show_digits,
        )
        with state.uploads.take(caller) as reservation:
            upload = await open_upload(request, body_limits(state.settings))
            inspection = await _inspect(state, generation, request, upload, options, reservation)
            note({f"speechqc.{stage}_s": seconds for stage, seconds in inspection.timing.stages().items()})
            note({"speechqc.audio_s": inspection.duration_s, "speechqc.channels": len(inspection.channels)})
            if is_json:  # encode while the memory is still reserved
                content = await asyncio.to_thread(_encoded, inspection, generation, identity, chosen, frames)
    _count_result(state, inspection)
    if is_json:
        return _HeldResponse(state, content)
    export = EXPORTS[format]
    name = PurePath(upload.filename or "recording").name
    report = export_report(inspection, generation.contract, name, chosen)
    disposition = f'attachment; filename="inspection.{export.extension}"'
    return StreamingResponse(
        export.render(report), media_type=export.media_type, headers={"Content-Disposition": disposition}
    )


def _encoded(
    inspection: RecordingFindings, generation: Generation, identity: str, labels: tuple[str, ...], frames: bool
) -> bytes:
    """Encode the JSON answer; in a worker thread, since it may list thousands of events and hours of frames."""
    document = inspection_document(
        inspection, generation.contract, generation.identity, request_id=identity, labels=labels, frames=frames
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
    options: InspectOptions,
    reservation: Reservation,
) -> RecordingFindings:
    decoder = Decoder(decode_limits(state.settings), upload.content_type, upload.filename, upload.total_bytes)
    lanes = make_lanes(state.settings)
    async with Inspector(generation.engine, generation.contract, lanes, options, reservation.set) as inspector:
        complete = asyncio.Event()
        inspecting = asyncio.create_task(inspector.inspect_bytes(_until(upload.pieces, complete), decoder))
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
    metrics, count = state.metrics, len(inspection.channels)
    metrics.audio_seconds.labels("upload").inc(inspection.duration_s * count)
    metrics.frames.inc(inspection.frame_total * count)
    for stage, seconds in inspection.timing.stages().items():
        metrics.upload_stage_seconds.labels(stage).observe(seconds)
    for record in inspection.channels:
        summary = record.summary
        metrics.verdicts.labels(record.verdict.status).inc()
        metrics.noisy_frames.labels("upload").inc(round((summary.noise_ratio or 0.0) * summary.frames))
        metrics.end_channel("upload", summary.snr_db, Counter(event.label for event in record.events))
