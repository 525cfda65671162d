"""Routes for calls: their documents, and their events as they happen."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from speech_qc.api.deps import ACCESS_ERRORS, State
from speech_qc.call_store.results import Results
from speech_qc.call_store.watch import Filter
from speech_qc.errors import NotFound, ProtocolError
from speech_qc.wire.encode import to_json
from speech_qc.wire.option_names import single_options
from speech_qc.wire.schemas import CallAnswer, CallsAnswer, ErrorAnswer
from speech_qc.wire.vocabulary import CallState

router = APIRouter()

MAX_LISTED = 200
DEFAULT_LISTED = 50

_STATES: tuple[CallState, ...] = ("live", "ended")
_NUMBER = re.compile(r"[0-9]{1,18}")

_UNAVAILABLE: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "An option that does not exist or has an invalid value"},
    503: {"model": ErrorAnswer, "description": "The database of the calls does not answer"},
}
_MISSING: dict[int | str, dict[str, Any]] = {404: {"model": ErrorAnswer, "description": "No such call"}}


@router.get(
    "/v1/calls",
    tags=["calls"],
    summary="Calls, the newest first",
    response_model=CallsAnswer,
    responses=ACCESS_ERRORS | _UNAVAILABLE,
)
async def calls(
    request: Request,
    state: State,
    call: Annotated[str | None, Query(description="Only documents of the call with this id.")] = None,
    of_state: Annotated[str | None, Query(alias="state", description="`live` or `ended`; both by default.")] = None,
    trunk: Annotated[str | None, Query(description="Only calls of this trunk.")] = None,
    limit: Annotated[str, Query(description="Maximum number of calls, 1 to 200.")] = str(DEFAULT_LISTED),
    before: Annotated[str | None, Query(description="Continue: `next` of the previous answer.")] = None,
) -> Response:
    """List the documents of calls. Needs a key that may watch."""
    _check_options(request, "call", "state", "trunk", "limit", "before")
    wanted = next((one for one in _STATES if one == of_state), None)
    if of_state is not None and wanted is None:
        raise ProtocolError(f"expected state=live or state=ended, got {of_state[:50]!r}: correct it or leave it out")
    count = _number("limit", limit)
    if not 1 <= count <= MAX_LISTED:
        raise ProtocolError(
            f"expected a limit of 1 to {MAX_LISTED}, got {count}: ask for less, and continue with `next`"
        )
    start = None if before is None else _number("before", before)
    found, following = await state.results.calls(call=call, state=wanted, trunk=trunk, before=start, limit=count)
    answer = {"calls": found, "next": following, "scope": state.results.scope}
    return Response(to_json(answer), media_type="application/json")


@router.get(
    "/v1/calls/{call_id:path}",
    tags=["calls"],
    summary="One call",
    response_model=CallAnswer,
    responses=ACCESS_ERRORS | _UNAVAILABLE | _MISSING,
)
async def call(call_id: str, request: Request, state: State) -> Response:
    """Return the document of a call, at most a few seconds old while it is live. Needs a key that may watch.

    If the call has several, it is the newest one, with their number in `documents`; `GET /v1/calls?call=` lists all.
    """
    _check_options(request)
    found = await state.results.call(call_id)
    if found is None:
        raise _no_call(call_id, state.results)
    return Response(to_json(found), media_type="application/json")


@router.delete(
    "/v1/calls/{call_id:path}",
    tags=["calls"],
    summary="Delete all that is stored of a call",
    status_code=204,
    response_class=Response,
    responses=ACCESS_ERRORS | _UNAVAILABLE | _MISSING,
)
async def remove(call_id: str, request: Request, state: State) -> Response:
    """Delete a call, all its documents, its events and the webhooks that are not delivered yet. Needs an admin key.

    A live call goes on, but nothing of it is stored or sent any more.
    """
    _check_options(request)
    if not await state.results.remove(call_id):
        raise _no_call(call_id, state.results)
    return Response(status_code=204)


@router.get(
    "/v1/watch",
    tags=["calls"],
    summary="Events of calls as they happen",
    response_class=StreamingResponse,
    responses=ACCESS_ERRORS | _UNAVAILABLE | {429: {"model": ErrorAnswer, "description": "Too many watchers"}},
)
async def watch(
    request: Request,
    state: State,
    call: Annotated[str | None, Query(description="Only events of this call.")] = None,
    trunk: Annotated[str | None, Query(description="Only events of this trunk.")] = None,
) -> Response:
    """Server-Sent Events; `Last-Event-ID` resumes after an event. Needs a key that may watch, or its token."""
    _check_options(request, "call", "trunk")
    given = request.headers.get("last-event-id", "").strip()
    after = _number("Last-Event-ID", given) if given else None
    return _Watch(state.results, Filter(call, trunk), after)


class _Watch(Response):
    """A response that occupies a watcher's place only while it is sent."""

    media_type = "text/event-stream"

    def __init__(self, results: Results, wanted: Filter, after: int | None) -> None:
        super().__init__()
        self._results, self._wanted, self._after = results, wanted, after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the client disconnects or the server stops."""
        async with self._results.watch(self._wanted, self._after) as events:
            headers = {
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",  # nginx would otherwise hold events back
                "X-Results-Scope": self._results.scope,
            }
            await StreamingResponse(events, media_type=self.media_type, headers=headers)(scope, receive, send)


def _check_options(request: Request, *known: str) -> None:
    if not known and request.query_params:
        raise ProtocolError(f"expected no options, got {str(request.query_params)[:100]!r}: leave them out")
    single_options(request.query_params.multi_items(), known)


def _number(name: str, text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ProtocolError(f"expected a whole number as {name}, got {text[:50]!r}: use the one that a response gave")
    return int(text)


def _no_call(call_id: str, results: Results) -> NotFound:
    whose = "this server" if results.scope == "server" else "any server that shares this database"
    return NotFound(
        f"expected the id of a call that {whose} has kept, got {call_id[:100]!r}: GET /v1/calls lists them",
        scope=results.scope,
    )
