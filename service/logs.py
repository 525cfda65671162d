"""How the log is written: text for a terminal, a JSON object per line for machines; never audio, never a payload.

The code logs through Python's `logging`; this module decides at the start what a line looks like. Lines that are
written while a request or stream is served carry its id, through a context variable.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, TextIO

from service.settings import Settings

TEXT_FORMAT = "%(levelname)s: %(name)s: %(message)s"

CHATTY = ("httpx", "httpcore", "urllib3")
"""Clients of other services, as OpenTelemetry's exporter uses; they tell every request at `info`."""

UNWANTED = {
    *vars(logging.makeLogRecord({})),
    *("message", "asctime", "color_message", "taskName"),
}
"""What is on every record, what another handler's formatter leaves there, uvicorn's message once more with colours, and
the name that newer Pythons have; what else is on a record came as `extra`."""

_ids: ContextVar[Mapping[str, str]] = ContextVar("speechqc_ids", default=MappingProxyType({}))


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what standard error is at the time, and is known as ours."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        self.stream = sys.stderr
        super().emit(record)


def configure_logging(settings: Settings, worker: int | None = None) -> None:
    """Send the log of this process to standard error; a second call replaces the first.

    Args:
        settings: `log_level` and `log_format`.
        worker: Number of this process among several; its lines say it.
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
    """Whether lines are JSON: as set, or when nobody looks at them on a terminal."""
    if settings.log_format == "auto":
        return not sys.stderr.isatty()
    return settings.log_format == "json"


class _JsonLines(logging.Formatter):
    """Writes a record as one JSON object; see `json_formatter`."""

    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._worker = {} if worker is None else {"worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        """Write one line, without its end."""
        line: dict[str, Any] = {
            "event": record.getMessage(),
            **_ids.get(),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        line |= {name: value for name, value in vars(record).items() if name not in UNWANTED}
        at = datetime.fromtimestamp(record.created, UTC)
        line["timestamp"] = at.isoformat(timespec="microseconds").replace("+00:00", "Z")
        line |= self._worker
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack_info"] = self.formatStack(record.stack_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def json_formatter(worker: int | None = None) -> logging.Formatter:
    """One JSON object per line.

    It has `timestamp` (UTC), `level`, `logger`, `event`, and where there are such: `worker`, `request_id`,
    `session_id`, `exception`, and the facts that the code passed as `extra`.
    """
    return _JsonLines(worker)


def text_formatter(worker: int | None = None) -> logging.Formatter:
    """Level, logger and message, as on a terminal."""
    return logging.Formatter(
        TEXT_FORMAT.replace(": ", f": worker {worker}: ", 1) if worker is not None else TEXT_FORMAT
    )


@contextmanager
def ids(**names: str) -> Iterator[None]:
    """Have all lines that are written inside, and in tasks that are started there, carry these ids."""
    token = _ids.set({**_ids.get(), **names})
    try:
        yield
    finally:
        _ids.reset(token)
