"""What only keys are for: tokens for browsers' sockets, and the reload of the model."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from service.api.deps import From, State
from service.api.schemas import ErrorAnswer, ReloadAnswer, TokenAnswer
from service.errors import Forbidden

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
    if caller.by_token:
        raise Forbidden("a token cannot ask for another one, or it would last for ever: send the key itself")
    answer = {"token": state.ring.make_token(caller.key), "expires_in_s": state.ring.token_s}
    return JSONResponse(answer, headers={"Cache-Control": "no-store"})


@router.post(
    "/v1/model/reload",
    tags=["access"],
    summary="Load the model file anew",
    response_model=ReloadAnswer,
    responses=_REFUSED | {409: {"model": ErrorAnswer, "description": "Not replaced, and why; the old one serves on"}},
)
async def reload(state: State, caller: From) -> dict[str, Any]:
    """The file of `SPEECHQC_MODEL_PATH` is loaded and warmed beside the model in use, then serves whoever comes.

    Streams and uploads that have begun end with the model they began with. Needs an admin key.
    """
    if caller.key is None or not caller.key.admin or caller.by_token:
        raise Forbidden(
            "reloading the model needs an admin key ('speech-qc keys add NAME --admin'); without keys send the server "
            "SIGHUP"
        )
    done = await state.models.reload()
    if state.member is not None:
        state.member.reload_others()
    return {
        "outcome": done.outcome,
        "model": {"name": done.identity.name, "version": done.identity.version, "sha256": done.identity.sha256},
        "old_models": done.old,
    }
