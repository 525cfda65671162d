"""The application: settings in, a FastAPI app out. Imports everything; nothing imports it but the entry points."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from prometheus_client import generate_latest

from service import __version__
from service.api import faults, inspect, ops, pages, stream
from service.api.deps import AppState
from service.api.middleware import RequestContext
from service.assembly import make_engine, make_runner
from service.engine import Runner
from service.errors import SettingsError
from service.live.hub import StreamHub
from service.metrics import Metrics
from service.scoring import Profiles, load_profiles
from service.session import ChunkReader
from service.settings import Settings
from service.tracing import make_tracing
from service.workers.member import Member

logger = logging.getLogger("service")

DESCRIPTION = """
Hears noise and interference in speech: scores for every 20 ms, events with their times and causes, levels, a summary
and a verdict. `POST /v1/inspect` takes a recording.
"""


def create_app(settings: Settings, runner: Runner | None = None, member: Member | None = None) -> FastAPI:
    """Build one server.

    Args:
        settings: All settings.
        runner: A model that is loaded already; by default the file of the settings is loaded now.
        member: This process among several workers; None when it is the only one.

    Raises:
        StartupError: Settings, profiles, model or device are not fit for service; nothing was started.
    """
    profiles = checked_profiles(settings)
    runner = runner or make_runner(settings)
    tracing = make_tracing(settings.otel)
    metrics = Metrics()
    metrics.describe(runner)
    metrics.live_channels_limit.set(settings.max_streams)
    metrics.uploads_limit.set(settings.max_uploads)
    if member is not None:
        member.offer(lambda: generate_latest(metrics.registry).decode())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        reader = ChunkReader(runner.contract)
        engine = make_engine(settings, runner, metrics, reader)
        streams = StreamHub(settings.max_streams)
        metrics.watch(engine, streams)
        app.state.parts = AppState(settings, profiles, metrics, runner, engine, reader, streams, member)
        await engine.start()
        logger.info(
            "ready: model %s %s (%s) on %s",
            runner.contract.name,
            runner.contract.version,
            runner.sha256[:12],
            runner.provider,
        )
        try:
            yield
        finally:
            await streams.drain(settings.drain_s)
            await asyncio.shield(engine.drain(settings.drain_s))
            if member is not None:
                member.close()
            await asyncio.to_thread(tracing.close)

    app = FastAPI(
        title="speech-qc",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        openapi_tags=_TAGS,
        telemetry=_NO_TELEMETRY,
    )
    app.state.settings = settings
    faults.install(app)
    app.include_router(inspect.router)
    app.include_router(stream.router)
    app.include_router(ops.router)
    app.include_router(pages.router)
    app.add_middleware(RequestContext, metrics=metrics, tracing=tracing)
    return app


def checked_profiles(settings: Settings) -> Profiles:
    """Load the verdict profiles and make sure that the default one is among them.

    Raises:
        SettingsError: The file cannot be used, or lacks the default profile.
    """
    profiles = load_profiles(settings.profiles_path)
    if settings.default_profile not in profiles.names:
        raise SettingsError(
            f"SPEECHQC_DEFAULT_PROFILE={settings.default_profile!r} is not among the profiles: "
            f"{', '.join(profiles.names)}"
        )
    return profiles


_NO_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
"""FastAPI has its own in newer versions; it would record exceptions and paths with what clients said in them, whatever
our settings say. Older versions ignore the word."""

_TAGS = [
    {"name": "inspect", "description": "Recordings and the model that hears them."},
    {"name": "health", "description": "For balancers, supervisors and Prometheus."},
]
