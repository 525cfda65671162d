"""For operators and machines: the model in use, liveness, readiness, metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service import __version__
from service.api.deps import State
from service.api.schemas import HealthAnswer, ModelAnswer, ReadyAnswer

router = APIRouter()


@router.get("/v1/model", tags=["inspect"], summary="The model in use", response_model=ModelAnswer)
async def model(state: State) -> dict[str, Any]:
    """Everything that the model file declares: labels with thresholds, latency, training, data, figures."""
    contract = state.contract  # nothing below waits, so all of it is of one model
    return {
        "model": {"name": contract.name, "version": contract.version, "sha256": state.model.sha256},
        "provider": state.model.provider,
        "provider_fallback": state.model.provider_fallback,
        "latency_s": contract.latency_s,
        "frame_hop_s": contract.features.frame_hop_s,
        "profiles": list(state.profiles.names),
        "default_profile": state.settings.default_profile,
        "contract": contract.model_dump(mode="json"),
    }


@router.get("/health/live", tags=["health"], summary="The process answers", response_model=HealthAnswer)
async def live() -> dict[str, str]:
    """Restart the process when this fails."""
    return {"status": "live", "version": __version__}


@router.get(
    "/health/ready",
    tags=["health"],
    summary="New work is welcome",
    response_model=ReadyAnswer,
    responses={503: {"description": "Warming up, draining, or the engine is dead", "model": ReadyAnswer}},
)
async def ready(state: State, response: Response) -> dict[str, Any]:
    """Send traffic only while this is 200: the model is loaded and warm, the engine lives."""
    status = state.engine.status
    if status.ready:
        word = "ready"
    else:
        response.status_code = 503
        word = "dead" if not status.alive else "draining" if status.draining else "starting"
    return {
        "status": word,
        "provider": status.provider,
        "provider_fallback": state.model.provider_fallback,
        "model": {"name": state.contract.name, "version": state.contract.version, "sha256": state.model.sha256},
        "workers": state.settings.workers,
        "sessions": status.sessions,
        "queued": status.queued,
        "reason": status.death,
    }


@router.get("/metrics", tags=["health"], summary="Prometheus metrics", response_class=Response)
async def metrics(state: State) -> Response:
    """Text format for a Prometheus server; with several workers those of all, whichever is asked."""
    text = generate_latest(state.metrics.registry) if state.member is None else await state.member.scrape()
    return Response(text, media_type=CONTENT_TYPE_LATEST)
