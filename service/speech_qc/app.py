"""The application: settings in, a FastAPI app out. Imports everything; nothing imports it but the entry points."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from prometheus_client import generate_latest
from starlette.middleware.cors import CORSMiddleware

from service import __version__
from service.api import faults, inspect, keys, ops, pages, stream
from service.api.access import Access, Policy
from service.api.deps import AppState
from service.api.middleware import RequestContext
from service.assembly import make_runner
from service.callers import Quotas
from service.draining import Drain
from service.engine import Runner
from service.errors import SettingsError
from service.generations import Generations, Load
from service.holding import HeldBytes
from service.live.hub import StreamHub
from service.metrics import Metrics
from service.scoring import Profiles, load_profiles
from service.settings import Settings
from service.tracing import Tracing, make_tracing
from service.watching import watch_file
from service.workers.member import Member

DESCRIPTION = """
Hears noise and interference in speech: scores for every 20 ms, events with their times and causes, levels, a summary
and a verdict. `POST /v1/inspect` takes a recording.
"""


def create_app(
    settings: Settings, runner: Runner | None = None, member: Member | None = None, load: Load = make_runner
) -> FastAPI:
    """Build one server.

    Args:
        settings: All settings.
        runner: A model that is loaded already; by default the file of the settings is loaded now.
        member: This process among several workers; None when it is the only one.
        load: Loads the model file, now and at every reload.

    Raises:
        StartupError: Settings, keys, profiles, model or device are not fit for service; nothing was started.
    """
    profiles = checked_profiles(settings)
    policy = Policy.of(settings)
    first = runner or load(settings)
    tracing = make_tracing(settings.otel)
    metrics = Metrics()
    metrics.describe(first)
    metrics.live_channels_limit.set(settings.max_streams)
    metrics.uploads_limit.set(settings.max_uploads)
    metrics.held_bytes_limit.set(settings.max_held_bytes)
    metrics.connections_limit.set(settings.connections_limit)
    if member is not None:
        member.offer(lambda: generate_latest(metrics.registry).decode())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        models = Generations(settings, first, metrics, load)
        streams = StreamHub(settings.max_streams)
        metrics.watch_places(streams)
        quotas = Quotas(settings, partial(metrics.refuse, "key"))
        held = HeldBytes(settings.max_held_bytes, lambda: app.state.unsent_bytes(), partial(metrics.refuse, "memory"))
        metrics.held_bytes.set_function(lambda: held.bytes)
        app.state.parts = AppState(settings, profiles, metrics, models, streams, policy.ring, quotas, held, member)
        await models.start()
        if member is not None:
            member.offer_reload(models.reload_told)
        watcher: asyncio.Task[None] | None = None
        if settings.model_watch_s:
            watcher = asyncio.create_task(watch_file(settings.model_path, settings.model_watch_s, models.reload))
        try:
            yield
        finally:
            if watcher is not None:
                watcher.cancel()
                await asyncio.wait({watcher})
            drain: Drain = app.state.drain  # where a server began it before, most of the time may be over
            await streams.drain(drain.work_left_s)
            await asyncio.shield(models.drain(max(drain.work_left_s, drain.left_s / 4), drain.left_s / 4))
            if member is not None:
                member.close()
            with suppress(TimeoutError):  # where spans go may be what is gone
                await asyncio.wait_for(asyncio.to_thread(tracing.close), drain.left_s / 2)

    app = FastAPI(
        title="speech-qc",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        openapi_tags=_TAGS,
        telemetry=_NO_TELEMETRY,
    )
    app.state.settings, app.state.metrics, app.state.drain = settings, metrics, Drain(settings.drain_s)
    app.state.unsent_bytes = lambda: 0  # a server that can look into its connections says more
    faults.install(app)
    for routes in (inspect, stream, keys, ops, pages):
        app.include_router(routes.router)
        known = [route for route in routes.router.routes if isinstance(route, APIRoute)]
        metrics.begin_routes({route.path: {200, 500, *map(int, route.responses)} for route in known})
    _add_middleware(app, policy, metrics, tracing)
    return app


def _add_middleware(app: FastAPI, policy: Policy, metrics: Metrics, tracing: Tracing) -> None:
    """The last one added is the first to see a request."""
    app.add_middleware(Access, policy=policy, metrics=metrics)
    if policy.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(policy.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "X-API-Key", "X-Request-ID", "Content-Type"],
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    app.add_middleware(RequestContext, metrics=metrics, tracing=tracing)


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
    {"name": "access", "description": "Tokens, and what needs an admin key."},
    {"name": "health", "description": "For balancers, supervisors and Prometheus."},
]
