"""Liveness, readiness and metrics, for load balancers, supervisors and Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from speech_qc.api.deps import State
from speech_qc.version import __version__
from speech_qc.wire.schemas import HealthAnswer, ReadyAnswer
from speech_qc.wire.vocabulary import ReadyState

router = APIRouter()


@router.get("/health/live", tags=["health"], summary="Liveness", response_model=HealthAnswer)
async def live() -> HealthAnswer:
    """Answers 200 while the process can respond. Restart the process if this fails."""
    return HealthAnswer(status="live", version=__version__)


@router.get(
    "/health/ready",
    tags=["health"],
    summary="Readiness",
    response_model=ReadyAnswer,
    responses={503: {"description": "Warming up, draining, or the engine is dead", "model": ReadyAnswer}},
)
async def ready(state: State, response: Response) -> ReadyAnswer:
    """Answers 200 while the model is warm and the engine accepts new work. Send traffic only then."""
    status = state.engine.status
    ready_state: ReadyState = "ready"
    if not status.ready:
        response.status_code = 503
        ready_state = "dead" if not status.alive else "draining" if status.draining else "starting"
    return ReadyAnswer(
        status=ready_state,
        provider=status.provider,
        provider_fallback=state.model.provider_fallback,
        model=state.identity,
        workers=state.settings.workers,
        sessions=status.sessions,
        queued=status.queued,
        reason=status.death,
    )


@router.get("/metrics", tags=["health"], summary="Prometheus metrics", response_class=Response)
async def metrics(state: State) -> Response:
    """Metrics in Prometheus text format; with several workers, any of them returns the metrics of all."""
    text = generate_latest(state.metrics.registry) if state.member is None else await state.member.scrape()
    return Response(text, media_type=CONTENT_TYPE_LATEST)
