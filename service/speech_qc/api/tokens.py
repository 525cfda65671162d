"""What only keys are for: tokens for browsers' sockets, and the reload of the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from service.api.deps import From, State
from service.api.schemas import ErrorAnswer, ReloadAnswer, TokenAnswer
from service.errors import Forbidden, ReloadFailed
from service.workers.channel import Message
from service.workers.reloading import FAILED, GOOD, in_words, is_good

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
    answer = {"token": state.ring.make_token(caller.key), "expires_in_s": state.ring.token_s}
    return JSONResponse(answer, headers={"Cache-Control": "no-store"})


@router.post(
    "/v1/model/reload",
    tags=["access"],
    summary="Load the model file anew",
    response_model=ReloadAnswer,
    responses=_REFUSED
    | {409: {"model": ErrorAnswer, "description": "Not replaced, or not in every worker, and why; those serve on"}},
)
async def reload(state: State, caller: From) -> dict[str, Any]:
    """The file of `SPEECHQC_MODEL_PATH` is loaded and warmed beside the model in use, then serves whoever comes.

    Streams and uploads that have begun end with the model they began with. With several processes one of them tries
    the file first, then the others follow, and `workers` says how it went in each. Needs an admin key.
    """
    if caller.key is None or not caller.key.admin:
        raise Forbidden(
            "reloading the model needs an admin key ('speech-qc keys add NAME --admin'); without keys send the server "
            "SIGHUP"
        )
    if state.member is None:
        done = await state.models.reload_told()
        if done["outcome"] == FAILED:
            raise ReloadFailed(done["message"])
        return _reloaded(done)
    found = await state.member.reload_all()
    workers = [_reloaded(said) | {"worker": number} for number, said in found.items()]
    if not is_good(found):
        raise ReloadFailed(_how_far(found), workers=workers)
    outcome = "replaced" if any(said["outcome"] == "replaced" for said in found.values()) else "unchanged"
    return _reloaded(found[state.member.worker]) | {"outcome": outcome, "workers": workers}


def _reloaded(said: Message) -> dict[str, Any]:
    """How a reload went in one process."""
    model = {name: said[name] for name in ("name", "version", "sha256")} if "sha256" in said else None
    told = {"outcome": said["outcome"], "model": model, "old_models": said.get("old")}
    return told | ({"message": said["message"]} if said.get("message") else {})


def _how_far(found: Mapping[int, Message]) -> str:
    """What to know and do when not all workers have followed."""
    done = sum(said["outcome"] in GOOD for said in found.values())
    if not done:
        return next(str(said["message"]) for said in found.values() if said["outcome"] == FAILED)
    return (
        f"{done} of {len(found)} workers have followed the file, the others serve on with their model: "
        f"{in_words(found)}; reload again, or put the old file back and reload"
    )
