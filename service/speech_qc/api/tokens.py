"""`POST /v1/token`: short-lived tokens for WebSockets that browsers open."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from speech_qc.api.deps import ACCESS_ERRORS, From, State
from speech_qc.errors import Forbidden
from speech_qc.wire.schemas import TokenAnswer

router = APIRouter()


@router.post(
    "/v1/token",
    tags=["access"],
    summary="A short-lived token for a key",
    response_model=TokenAnswer,
    responses=ACCESS_ERRORS,
)
async def token(state: State, caller: From) -> JSONResponse:
    """Create a token that opens streams for a minute, as `/v1/stream?token=…`, or events, as `/v1/watch?token=…`.

    Tokens are for browsers, which cannot send a key when they open a WebSocket or an `EventSource`. A token has the
    rights of its key. What it has opened continues after it has expired.
    """
    if state.key_ring is None or caller.key is None:
        raise Forbidden("this server has no keys and needs no tokens: open the stream without one")
    answer = TokenAnswer(token=state.key_ring.make_token(caller.key), expires_in_s=state.key_ring.token_s)
    return JSONResponse(answer.model_dump(), headers={"Cache-Control": "no-store"})
