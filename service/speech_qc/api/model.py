"""`GET /v1/model` describes the model in use; `POST /v1/model/reload` replaces it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter

from speech_qc.api.deps import From, State
from speech_qc.errors import Forbidden, ReloadFailed
from speech_qc.wire.schemas import ErrorAnswer, ModelAnswer, ReloadAnswer
from speech_qc.workers.channel import Message
from speech_qc.workers.reload import FAILED, GOOD, all_succeeded, describe

router = APIRouter()

_REFUSED: dict[int | str, dict[str, Any]] = {
    401: {"model": ErrorAnswer, "description": "No valid key"},
    403: {"model": ErrorAnswer, "description": "The key lacks permission, or the server has no keys"},
}


@router.get("/v1/model", tags=["inspect"], summary="The model in use", response_model=ModelAnswer)
async def model(state: State) -> ModelAnswer:
    """Everything that the model file declares: labels with thresholds, latency, training, data, metrics."""
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
    summary="Reload the model",
    response_model=ReloadAnswer,
    responses=_REFUSED
    | {
        409: {
            "model": ErrorAnswer,
            "description": "Not replaced, or not in every worker; the message gives the reason, the old model stays",
        }
    },
)
async def reload(state: State, caller: From) -> dict[str, Any]:
    """Load and warm up the file of `SPEECHQC_MODEL_PATH` while the current model serves, then use it for new work.

    Streams and uploads in progress keep their model. With several processes, one loads the file first, then the
    others follow; `workers` has the outcome of each. Needs an admin key.
    """
    if caller.key is None or not caller.key.admin:
        raise Forbidden(
            "reloading the model needs an admin key ('speech-qc keys add NAME --admin'); on a server without keys, "
            "send SIGHUP to the process"
        )
    if state.member is None:
        done = await state.models.reload_result()
        if done["outcome"] == FAILED:
            raise ReloadFailed(done["message"])
        return _reloaded(done)
    found = await state.member.reload_all()
    workers = [_reloaded(result) | {"worker": number} for number, result in found.items()]
    if not all_succeeded(found):
        raise ReloadFailed(_failure_message(found), workers=workers)
    outcome = "replaced" if any(result["outcome"] == "replaced" for result in found.values()) else "unchanged"
    return _reloaded(found[state.member.worker]) | {"outcome": outcome, "workers": workers}


def _reloaded(result: Message) -> dict[str, Any]:
    """Convert the outcome of one process to the response format."""
    model = {name: result[name] for name in ("name", "version", "sha256")} if "sha256" in result else None
    fields = {"outcome": result["outcome"], "model": model, "old_models": result.get("old")}
    return fields | ({"message": result["message"]} if result.get("message") else {})


def _failure_message(found: Mapping[int, Message]) -> str:
    """Return the message for a reload that failed in some or all workers."""
    done = sum(result["outcome"] in GOOD for result in found.values())
    if not done:
        return next(str(result["message"]) for result in found.values() if result["outcome"] == FAILED)
    return (
        f"{done} of {len(found)} workers use the new file, the others keep their model: "
        f"{describe(found)}; reload again, or restore the old file and reload"
    )
