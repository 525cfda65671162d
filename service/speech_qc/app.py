"""Builds the FastAPI application from settings. Imports everything; only the entry points import it."""

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

from speech_qc.admission.memory import MemoryBudget
from speech_qc.admission.quotas import Quotas
from speech_qc.admission.streams import StreamRegistry
from speech_qc.admission.uploads import UploadPlaces
from speech_qc.api import calls, error_responses, health, inspect, model, pages, paths, stream, telephony, tokens
from speech_qc.api.access import Access
from speech_qc.api.request_context import RequestContext
from speech_qc.audio.packet_decoders import PacketDecoders
from speech_qc.call_store import Results
from speech_qc.calls.exchange import Exchange
from speech_qc.calls.registry import Calls
from speech_qc.engine import Runner
from speech_qc.errors import SettingsError
from speech_qc.file_stamp import file_stamp
from speech_qc.model.file_watcher import watch_file
from speech_qc.model.reload import Generations, Load
from speech_qc.pipeline.factory import make_profiles, make_runner
from speech_qc.scoring import Profiles
from speech_qc.security.access_policy import AccessPolicy
from speech_qc.security.bind_check import audiosocket_address, audiosocket_networks
from speech_qc.settings import Settings
from speech_qc.shutdown import DrainDeadline
from speech_qc.state import AppState
from speech_qc.telemetry.metrics import Metrics
from speech_qc.telemetry.tracing import make_tracing
from speech_qc.telephony.audiosocket import AudioSocketListener
from speech_qc.telephony.packets import ANSWER_S
from speech_qc.version import __version__
from speech_qc.webhooks import WebhookConfig, WebhookSender
from speech_qc.workers.member import Member

DESCRIPTION = """
Detects noise and interference in speech: scores for every 20 ms, events with their times and causes, levels, a summary
and a verdict. Send a recording to `POST /v1/inspect`.
"""


def create_app(
    settings: Settings, runner: Runner | None = None, member: Member | None = None, load: Load = make_runner
) -> FastAPI:
    """Build the application of one server process.

    Args:
        settings: All settings.
        runner: A model that is already loaded; by default the file in the settings is loaded now.
        member: This process among several workers; None if it is the only one.
        load: Loads the model file, now and at every reload.

    Raises:
        StartupError: Settings, keys, profiles, model or device cannot be used; nothing was started.
    """
    profiles = make_profiles(settings)
    policy = AccessPolicy.of(settings)
    stamp = file_stamp(settings.model_path)  # before it is read: a file that is replaced meanwhile is a new one
    state = _make_state(settings, profiles, policy, runner or load(settings), member, load)
    app = FastAPI(
        title="speech-qc",
        version=__version__,
        description=DESCRIPTION,
        lifespan=_lifespan,
        openapi_tags=_TAGS,
        telemetry=_NO_TELEMETRY,
        redirect_slashes=False,  # see api.paths.TrailingSlash
    )
    app.state.parts, app.state.model_stamp = state, stamp
    error_responses.install(app)
    routers = (inspect, stream, telephony, calls, tokens, model, health, pages)
    paths.install(app, [route for one in routers for route in one.router.routes])
    for routes in routers:
        app.include_router(routes.router)
        known = [route for route in routes.router.routes if isinstance(route, APIRoute)]
        state.metrics.begin_routes({route.path: {200, 500, *map(int, route.responses)} for route in known})
    _add_middleware(app, policy, state)
    return app


def _make_state(
    settings: Settings, profiles: Profiles, policy: AccessPolicy, runner: Runner, member: Member | None, load: Load
) -> AppState:
    """Create the parts of one server; nothing runs yet."""
    metrics = Metrics()
    metrics.describe(runner)
    metrics.live_channels_limit.set(settings.max_streams)
    metrics.uploads_limit.set(settings.max_uploads)
    metrics.held_bytes_limit.set(settings.max_held_bytes)
    metrics.connections_limit.set(settings.connections_limit)
    quotas = Quotas(settings, partial(metrics.refuse, "key"))
    webhooks = WebhookConfig.of(settings)
    results = Results(settings, webhooks.subscription, metrics, member.results_file if member else None)
    models = Generations(settings, runner, metrics, load)
    memory = MemoryBudget(settings.max_held_bytes, partial(metrics.refuse, "memory"))
    metrics.held_bytes.set_function(lambda: memory.bytes)
    state = AppState(
        settings=settings,
        profiles=profiles,
        metrics=metrics,
        models=models,
        streams=StreamRegistry(settings.max_streams, metrics.refuse),
        key_ring=policy.ring,
        quotas=quotas,
        uploads=UploadPlaces(settings.max_uploads, quotas, memory, metrics),
        memory=memory,
        tracing=make_tracing(settings.otel),
        drain=DrainDeadline(settings.drain_s),
        results=results,
        webhooks=_make_sender(results, webhooks, metrics),
        signatures=policy.signatures,
        calls=_make_calls(settings, models, results, member),
        packets=PacketDecoders(ANSWER_S),
        member=member,
    )
    metrics.live_channels.set_function(lambda: state.streams.channels)
    return state


def _make_calls(settings: Settings, models: Generations, results: Results, member: Member | None) -> Calls:
    exchange = None if member is None else Exchange(member)
    return Calls(settings, lambda: models.current.contract, results, exchange)


def _make_sender(results: Results, config: WebhookConfig, metrics: Metrics) -> WebhookSender:
    sender = WebhookSender(results.database, config, metrics)
    results.on_deliveries(sender.wake)
    return sender


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Warm up the model, then serve; at shutdown, let accepted work finish within the drain time."""
    state: AppState = app.state.parts
    settings, member = state.settings, state.member
    if state.models.started:  # the application is started again, as test tools do
        state.models, state.streams = state.models.renewed(), StreamRegistry(settings.max_streams, state.metrics.refuse)
        state.drain, state.results = DrainDeadline(settings.drain_s), state.results.renewed()
        state.webhooks = _make_sender(state.results, WebhookConfig.of(settings), state.metrics)
        state.calls = _make_calls(settings, state.models, state.results, member)
    models, streams, drain = state.models, state.streams, state.drain
    state.results.start()  # the tables are made while the model warms up
    if member is not None:
        member.offer(lambda: generate_latest(state.metrics.registry).decode())
    await models.start()
    await state.results.wait_prepared()
    state.webhooks.start()
    if member is not None:
        member.offer_reload(models.reload_result)
    watcher: asyncio.Task[None] | None = None
    if settings.model_watch_s:
        watching = watch_file(
            settings.model_path, app.state.model_stamp, settings.model_watch_s, models.reload, models.obstacle
        )
        watcher = asyncio.create_task(watching)
    audiosocket = app.state.audiosocket = await _open_audiosocket(state)
    try:
        yield
    finally:
        if watcher is not None:
            watcher.cancel()
            await asyncio.wait({watcher})
        await streams.drain(drain.work_remaining_s)  # the deadline may have started in the server
        if audiosocket is not None:
            await audiosocket.close()
        state.packets.close()
        await asyncio.shield(models.drain(max(drain.work_remaining_s, drain.remaining_s / 4), drain.remaining_s / 4))
        await state.calls.drain(min(1.0, drain.remaining_s / 4))
        await _close_results(state)
        if member is not None:
            member.close()
        with suppress(TimeoutError):  # the receiver of the spans may be unreachable
            await asyncio.wait_for(asyncio.to_thread(state.tracing.close), drain.remaining_s / 2)


async def _open_audiosocket(state: AppState) -> AudioSocketListener | None:
    """Listen for Asterisk's AudioSocket, if the settings ask for it.

    Raises:
        SettingsError: The address cannot be used.
    """
    settings = state.settings
    address = audiosocket_address(settings)
    if address is None:
        return None
    listener = AudioSocketListener(state, audiosocket_networks(settings))
    try:
        await listener.start(*address, shared=settings.workers > 1)
    except OSError as error:
        raise SettingsError(f"SPEECHQC_AUDIOSOCKET={settings.audiosocket!r} cannot be used: {error}") from error
    return listener


async def _close_results(state: AppState) -> None:
    """Store what the calls still said, deliver what would be lost with this process, and close the database."""
    await state.results.end_watching()
    await asyncio.to_thread(state.results.finish, max(0.5, state.drain.remaining_s / 4))
    await asyncio.to_thread(state.webhooks.close, max(0.5, state.drain.remaining_s / 4))
    await asyncio.to_thread(state.results.close)


def _add_middleware(app: FastAPI, policy: AccessPolicy, state: AppState) -> None:
    """Add the middleware; the last one added handles a request first."""
    app.add_middleware(Access, policy=policy, metrics=state.metrics)
    if policy.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(policy.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "X-API-Key", "X-Request-ID", "Content-Type"],
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    app.add_middleware(RequestContext, metrics=state.metrics, tracing=state.tracing)
    app.add_middleware(paths.TrailingSlash)


_NO_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
"""Newer versions of FastAPI have their own telemetry, which would record exceptions and paths with data from clients,
whatever our settings are. Older versions ignore this argument."""

_TAGS = [
    {"name": "inspect", "description": "Recordings and the model that scores them."},
    {"name": "calls", "description": "Calls, and what happens in them."},
    {"name": "access", "description": "Tokens, and operations that need an admin key."},
    {"name": "health", "description": "For load balancers, supervisors and Prometheus."},
]
