"""`GET /v1/model` and `POST /v1/model/reload`: the model in use, and replacing it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter

from speech_qc.api.deps import From, State
from speech_qc.errors import Forbidden, ReloadFailed
from speech_qc.wire.schemas import ErrorAnswer, ModelAnswer, ReloadAnswer
from speech_qc.workers.channel import Message
from speech_qc.workers.reload import FAILED, GOOD, in_words, is_good

router = APIRouter()

_REFUSED: dict[int | str, dict[str, Any]] = {
    401: {"model": ErrorAnswer, "description": "No valid key"},
    403: {"model": ErrorAnswer, "description": "A key that may not do this, or a server without keys"},
}


@router.get("/v1/model", tags=["inspect"], summary="The model in use", response_model=ModelAnswer)
async def model(state: State) -> ModelAnswer:
    """Everything that the model file declares: labels with thresholds, latency, training, data, figures."""
    generation = state.models.current
    contract, model = generation.contract, generation.model
    return ModelAnswer(
        model=generation.identity,
        provider=model.provider,
        provider_fallback=model.provider_fallback,
        latency_s=contract.latency_s,
        frame_hop_s=contract.features.frame_hop_s,
        profiles=list(state.profiles.names),
        default_profile=state.settings.default_profile,
        contract=contract,
    )


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
