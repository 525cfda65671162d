"""The `serve` command: all settings, profiles and the model are checked before the port is opened."""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from speech_qc import gc_tuning
from speech_qc.cli.seams import Seams
from speech_qc.exit_codes import OK
from speech_qc.security.bind_check import check_exposure
from speech_qc.settings import Settings, load_settings, unknown_variables
from speech_qc.telemetry.logging import configure_logging

logger = logging.getLogger("speech_qc.settings")


def serve(
    *,
    host: str | None,
    port: int | None,
    model: Path | None,
    device: str | None,
    log_level: str | None,
    workers: int | None,
    seams: Seams,
) -> int:
    """Load model and profiles, then serve until a signal; an option that is None is taken from the settings.

    Returns:
        The exit code.

    Raises:
        StartupError: A setting, a profile or the model is invalid; the port was not opened.
    """
    settings = load_settings(
        host=host, port=port, model_path=model, device=device, log_level=log_level, workers=workers
    )
    configure_logging(settings)
    for name in unknown_variables(os.environ):
        logger.warning("%s is not a setting and has no effect: see `speech-qc settings` for all names", name)
    check_exposure(settings)
    if settings.workers > 1:
        return seams.supervise(_with_shared_secret(settings))
    gc_tuning.pause_collections()  # the server resumes them when it has started
    try:
        from speech_qc.app import create_app

        app = create_app(settings, seams.make_runner(settings))
        seams.run_server(app, host=settings.host, port=settings.port, **server_options(settings))
    finally:
        gc_tuning.resume_collections()
    return OK


def _with_shared_secret(settings: Settings) -> Settings:
    """Return settings with a token secret that all workers share, so that each accepts the tokens of the others."""
    if settings.token_secret is not None:
        return settings
    return settings.model_copy(update={"token_secret": SecretStr(secrets.token_hex())})


def server_options(settings: Settings) -> dict[str, Any]:
    """Return the options of uvicorn for every server process."""
    return {
        "log_level": settings.log_level,
        "log_config": None,  # uvicorn's messages use the application's log format and destination
        "access_log": False,  # the application logs requests itself, with request ids
    }
