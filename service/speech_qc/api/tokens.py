"""`POST /v1/token`: short-lived tokens, for sockets that browsers open."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from speech_qc.api.deps import From, State
from speech_qc.errors import Forbidden
from speech_qc.wire.schemas import ErrorAnswer, TokenAnswer

router = APIRouter()

_REFUSED: dict[int | str, dict[str, Any]] = {
    401: {"model": ErrorAnswer, "description": "No valid key"},
    403: {"model": ErrorAnswer, "description": "A key that may not do this, or a server without keys"},
}


@router.post(
    "/v1/token",
    tags=["access"],
    summary="A short-lived token for a key",
    response_model=TokenAnswer,
    responses=_REFUSED,
)
async def token(state: State, caller: From) -> JSONResponse:
    """Opens streams for a minute, as `/v1/stream?token=…`: for browsers, which cannot send a key with a socket.

    A stream that is open goes on when the time of its token is over.
    """
    if state.ring is None or caller.key is None:
        raise Forbidden("this server has no keys, so nobody needs a token: open the stream without one")
    answer = TokenAnswer(token=state.ring.make_token(caller.key), expires_in_s=state.ring.token_s)
    return JSONResponse(answer.model_dump(), headers={"Cache-Control": "no-store"})
