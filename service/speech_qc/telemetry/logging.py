"""Log output: text for a terminal, one JSON object per line for machines; never audio, never a payload.

Lines that are written while a request or stream is served carry its id, through a context variable.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, TextIO

from pythonjsonlogger import core, json

from speech_qc.settings import Settings

TEXT_FORMAT = "%(levelname)s: %(name)s: %(message)s"

CHATTY = ("httpx", "httpcore", "urllib3")
"""HTTP clients, which OpenTelemetry's exporter uses; they log every request at `info`."""

_IDS: ContextVar[Mapping[str, str]] = ContextVar("speechqc_ids", default=MappingProxyType({}))


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
    handler.setFormatter(JsonFormatter(worker) if writes_json(settings) else text_formatter(worker))
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


class JsonFormatter(json.JsonFormatter):
    """Writes a record as one line, a JSON object.

    It contains `timestamp` (UTC), `level`, `logger`, `event` and, if available, `worker`, `request_id`, `session_id`,
    `exception`, and the facts that the code passed as `extra`. A value that JSON does not know is written as its `str`.

    Args:
        worker: Number of this process if there are several.
    """

    def __init__(self, worker: int | None = None) -> None:
        super().__init__(
            ["message", "levelname", "name"],
            rename_fields={"message": "event", "levelname": "level", "name": "logger", "exc_info": "exception"},
            static_fields={} if worker is None else {"worker": worker},
            reserved_attrs=[*core.RESERVED_ATTRS, "color_message"],  # uvicorn's copy of the message
            json_default=str,
            json_ensure_ascii=False,
        )

    def add_fields(self, log_data: core.LogData, record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Add the fields of a record but those that begin with `_`, which a library, such as Ray, adds for itself."""
        super().add_fields(log_data, record, message_dict)
        for name in [name for name in log_data if name.startswith("_")]:
            del log_data[name]
        log_data |= _IDS.get()
        log_data["level"] = record.levelname.lower()
        log_data["timestamp"] = datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z")


def text_formatter(worker: int | None = None) -> logging.Formatter:
    """Level, logger and message, for a terminal."""
    return logging.Formatter(
        TEXT_FORMAT.replace(": ", f": worker {worker}: ", 1) if worker is not None else TEXT_FORMAT
    )


@contextmanager
def ids(**names: str) -> Iterator[None]:
    """Add these ids to all lines that are written inside, and in tasks that are started there."""
    before = _IDS.set({**_IDS.get(), **names})
    try:
        yield
    finally:
        _IDS.reset(before)
