"""The check of `speech-qc doctor` that concerns results of calls: their database, and the settings of webhooks."""

from __future__ import annotations

import os
from pathlib import Path

from speech_qc.cli.doctor_checks import CheckResult
from speech_qc.errors import SpeechQCError
from speech_qc.settings import Settings

NAME = "results"


def check_results(settings: Settings) -> CheckResult:
    """Check that the database answers or its file can be written, and that webhooks are configured completely."""
    from sqlalchemy.exc import SQLAlchemyError

    from speech_qc.call_store.database import Database, parse_url
    from speech_qc.call_store.writer import describe
    from speech_qc.webhooks import WebhookConfig

    try:
        receivers = len(WebhookConfig.of(settings).subscription.urls)
        where = parse_url(settings.results_url.get_secret_value()) if settings.results_url else None
    except SpeechQCError as error:
        return CheckResult(NAME, "fail", str(error), "see the message for what to fix")
    hooks = f", webhooks to {receivers} {'URL' if receivers == 1 else 'URLs'}" if receivers else ""
    if where is None:
        return CheckResult(NAME, "ok", f"calls are kept in memory{hooks}")
    if where.drivername == "sqlite":
        file = Path(str(where.database))
        if not os.access(file if file.exists() else file.parent, os.W_OK):
            advice = "make it writable for the user who runs the service"
            return CheckResult(NAME, "fail", f"{file} cannot be written", advice)
        return CheckResult(NAME, "ok", f"calls are kept in {file}{hooks}")
    database = Database(where, private=False)
    try:
        with database.reading():
            pass
    except SQLAlchemyError as error:
        advice = "the service runs without it, and stores results when it answers: check address, account and network"
        return CheckResult(NAME, "warn", f"PostgreSQL does not answer: {describe(error)}", advice)
    finally:
        database.close()
    return CheckResult(NAME, "ok", f"calls are kept in PostgreSQL at {where.host}{hooks}")
