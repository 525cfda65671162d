"""Log output: text for a terminal, one JSON object per line for machines; never audio, never a payload.

The code logs through Python's `logging`. Only this module knows structlog, and it sets the line format at start-up.
Lines that are written while a request or stream is served carry its id, through a context variable.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import structlog

from speech_qc.settings import Settings

TEXT_FORMAT = "%(levelname)s: %(name)s: %(message)s"

CHATTY = ("httpx", "httpcore", "urllib3")
"""HTTP clients, which OpenTelemetry's exporter uses; they log every request at `info`."""

UNWANTED = ("message", "asctime", "color_message")
"""Fields that another handler's formatter leaves on a record, and uvicorn's coloured copy of the message."""


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to the current `sys.stderr`; the class marks the handler as ours."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        self.stream = sys.stderr
        super().emit(record)


def configure_logging(settings: Settings, worker: int | None = None) -> None:
    """Send the log of this process to standard error; a second call replaces the first.

    Args:
        settings: `log_level` and `log_format`.
        worker: Number of this process if there are several; included in its lines.
    """
    handler = _Stderr()
    handler.setFormatter(json_formatter(worker) if writes_json(settings) else text_formatter(worker))
    root = logging.getLogger()
    for old in [one for one in root.handlers if isinstance(one, _Stderr)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(settings.log_level.upper())
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def writes_json(settings: Settings) -> bool:
    """Whether lines are JSON: as configured, or by default if standard error is not a terminal."""
    if settings.log_format == "auto":
        return not sys.stderr.isatty()
    return settings.log_format == "json"


def json_formatter(worker: int | None = None) -> logging.Formatter:
    """One JSON object per line.

    It contains `timestamp` (UTC), `level`, `logger`, `event` and, if available, `worker`, `request_id`, `session_id`,
    `exception`, and the facts that the code passed as `extra`.
    """

    def add_worker(_: object, __: str, line: structlog.types.EventDict) -> structlog.types.EventDict:
        for name in UNWANTED:
            line.pop(name, None)
        if worker is not None:
            line["worker"] = worker
        return line

    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            add_worker,
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _without_private,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str, ensure_ascii=False),
        ],
    )


def _without_private(_logger: object, _method: str, facts: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Leave out what other libraries, such as Ray, add to every record for themselves."""
    return {name: fact for name, fact in facts.items() if not name.startswith("_")}


def text_formatter(worker: int | None = None) -> logging.Formatter:
    """Level, logger and message, for a terminal."""
    return logging.Formatter(
        TEXT_FORMAT.replace(": ", f": worker {worker}: ", 1) if worker is not None else TEXT_FORMAT
    )


@contextmanager
def ids(**names: str) -> Iterator[None]:
    """Add these ids to all lines that are written inside, and in tasks that are started there."""
    with structlog.contextvars.bound_contextvars(**names):
        yield
