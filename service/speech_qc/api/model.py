"""`GET /v1/model` describes the model in use; `POST /v1/model/reload` replaces it."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter

from speech_qc.api.deps import ACCESS_ERRORS, From, State
from speech_qc.errors import Forbidden, ReloadFailed
from speech_qc.pipeline.documents import model_answer
from speech_qc.wire.schemas import ErrorAnswer, ModelAnswer, ModelInfo, ReloadAnswer, WorkerReload
from speech_qc.wire.vocabulary import ReloadOutcome
from speech_qc.workers.channel import Message
from speech_qc.workers.reload import FAILED, GOOD, all_succeeded, describe

router = APIRouter()


@router.get("/v1/model", tags=["inspect"], summary="The model in use", response_model=ModelAnswer)
async def model(state: State) -> ModelAnswer:
    """Everything that the model file declares: labels with thresholds, latency, training, data, metrics."""
    return model_answer(state.models.current.model, state.profiles, state.settings.default_profile)


@router.post(
    "/v1/model/reload",
    tags=["access"],
    summary="Reload the model",
    response_model=ReloadAnswer,
    responses=ACCESS_ERRORS
    | {
        409: {
            "model": ErrorAnswer,
            "description": "Not replaced, or not in every worker; the message gives the reason, the old model stays",
        }
    },
)
async def reload(state: State, caller: From) -> ReloadAnswer:
    """Load and warm up the file of `SPEECHQC_MODEL_PATH` while the current model serves, then use it for new work.

    Streams and uploads in progress keep their model. With several processes, one loads the file first, then the
    others follow; `workers` has the outcome of each. Needs an admin key.
    """
    if caller.key is None or not caller.key.may("admin"):
        raise Forbidden(
            "reloading the model needs an admin key ('speech-qc keys add NAME --admin'); on a server without keys, "
            "send SIGHUP to the process"
        )
    if state.member is None:
        done = await state.models.reload_result()
        if done["outcome"] == FAILED:
            raise ReloadFailed(done["message"])
        return ReloadAnswer(outcome=done["outcome"], model=_model_of(done), old_models=done["old"])
    found = await state.member.reload_all()
    workers = [_worker_reload(number, result) for number, result in found.items()]
    if not all_succeeded(found):
        raise ReloadFailed(
            _failure_message(found), workers=[worker.model_dump(exclude_unset=True) for worker in workers]
        )
    outcome: ReloadOutcome = "unchanged"
    if any(result["outcome"] == "replaced" for result in found.values()):
        outcome = "replaced"
    own = found[state.member.worker]
    return ReloadAnswer(outcome=outcome, model=_model_of(own), old_models=own["old"], workers=workers)


def _model_of(result: Message) -> ModelInfo:
    return ModelInfo(name=result["name"], version=result["version"], sha256=result["sha256"])


def _worker_reload(worker: int, result: Message) -> WorkerReload:
    """Convert the outcome of one process."""
    answer = WorkerReload(
        worker=worker,
        outcome=result["outcome"],
        model=_model_of(result) if "sha256" in result else None,
        old_models=result.get("old"),
    )
    return answer.model_copy(update={"message": result["message"]}) if result.get("message") else answer


def _failure_message(found: Mapping[int, Message]) -> str:
    """Return the message for a reload that failed in some or all workers."""
    done = sum(result["outcome"] in GOOD for result in found.values())
    if not done:
        return next(str(result["message"]) for result in found.values() if result["outcome"] == FAILED)
    return (
        f"{done} of {len(found)} workers use the new file, the others keep their model: "
        f"{describe(found)}; reload again, or restore the old file and reload"
    )
