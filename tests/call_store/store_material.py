"""Events of calls that tests make up, a real receiver of webhooks, and a real PostgreSQL."""

from __future__ import annotations

import glob
import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest
from prometheus_client import CollectorRegistry
from standardwebhooks.webhooks import Webhook

from speech_qc.calls.events import CallEvent, CallEventKind
from speech_qc.capacity.host import free_port
from waiting import block_until

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def event(
    kind: CallEventKind,
    call_id: str = "call-1",
    *,
    trunk: str | None = "line-1",
    document_id: str | None = None,
    **data: Any,
) -> CallEvent:
    """An event of a call, now; by default of its only document."""
    if kind in ("call.started", "call.ended"):
        data = {"state": "ended" if kind == "call.ended" else "live", "legs": []} | data
    return CallEvent(kind, call_id, "twilio", trunk, datetime.now(UTC), data, document_id=document_id or call_id)


def whole_call(call_id: str, events: int = 3, document_id: str | None = None) -> list[CallEvent]:
    """The events of a call from its beginning to its end."""
    of = {"document_id": document_id}
    middle = [event("event.begin", call_id, label="echo", number=number, **of) for number in range(events)]
    return [event("call.started", call_id, **of), *middle, event("call.ended", call_id, **of)]


def value(registry: CollectorRegistry, name: str, **labels: str) -> float:
    """The value of a series."""
    found = registry.get_sample_value(name, labels)
    assert found is not None, name
    return found


class Receiver:
    """An HTTP server that checks signatures with the specification's own library.

    Args:
        port: Where it listens; a free port by default.

    Attributes:
        accepted: Bodies in the order in which they were accepted, with the header `webhook-id`.
        answer: Status of the responses; `refused` counts those that are not 200.
    """

    def __init__(self, port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}/hook"
        self.accepted: list[tuple[str, dict[str, Any]]] = []
        self.headers: list[dict[str, str]] = []
        self.invalid: list[str] = []
        self.refused = 0
        self.answer: Any = 200
        self.delay_s = 0.0
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None

    def handle(self, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str]]:
        """Take a request; return the status and headers of the response."""
        try:
            Webhook(SECRET).verify(body, headers)
        except Exception as error:
            self.invalid.append(repr(error))
            return 400, {}
        document = json.loads(body)
        time.sleep(self.delay_s)
        with self._lock:
            answer = self.answer(document) if callable(self.answer) else self.answer
            status, sent = answer if isinstance(answer, tuple) else (answer, {})
            if status == 200:
                self.accepted.append((headers["webhook-id"], document))
                self.headers.append(headers)
            else:
                self.refused += 1
        return status, sent

    def start(self) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers["content-length"])
                body = self.rfile.read(length)
                if len(body) < length:  # the sender was killed while it sent this, so it was not delivered
                    self.close_connection = True
                    return
                status, sent = receiver.handle({k.lower(): v for k, v in self.headers.items()}, body)
                self.send_response(status)
                for name, text in sent.items():
                    self.send_header(name, text)
                if "Content-Length" not in sent:
                    self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def of_call(self, call_id: str) -> list[dict[str, Any]]:
        """Bodies of one call, each message once, in the order of their first acceptance."""
        with self._lock:
            messages = dict(reversed([pair for pair in self.accepted if pair[1]["data"]["call_id"] == call_id]))
            return list(reversed(list(messages.values())))

    def until(self, count: int, patience_s: float = 8.0) -> None:
        """Wait until so many messages were accepted, repetitions not counted."""
        block_until(
            lambda: len({identity for identity, _ in self.accepted}) >= count,
            f"{count} webhooks are accepted",
            patience_s=patience_s,
            details=lambda: f"accepted {len(self.accepted)}, refused {self.refused}, invalid {self.invalid[:3]}",
        )


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver that runs."""
    receiver = Receiver()
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.stop()


class Postgres:
    """A PostgreSQL server of the test's own, as a user without privileges, since it refuses to run as root."""

    def __init__(self, binaries: Path) -> None:
        self._binaries, self.port = binaries, free_port()
        self._user = _other_user()
        self._folder = Path(tempfile.mkdtemp(prefix="speech-qc-postgres-", dir="/tmp"))
        self._process: subprocess.Popen[bytes] | None = None
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        self._call("initdb", "--no-sync", "--auth=trust", "--username=qc", "--encoding=UTF8", "-D", self._data)
        self._databases = 0
        self.start()

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    def _call(self, name: str, *words: str) -> None:
        done = subprocess.run([self._binaries / name, *words], capture_output=True, text=True, **self._as_user())
        assert done.returncode == 0, done.stdout + done.stderr

    def _as_user(self) -> dict[str, Any]:
        as_user: dict[str, Any] = {"cwd": "/"}
        if self._user is not None:
            entry = pwd.getpwnam(self._user)
            as_user |= {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        return as_user

    def start(self) -> None:
        words = ["-D", self._data, "-h", "127.0.0.1", "-p", str(self.port), "-k", str(self._folder), "-F"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", *words], stdout=log, stderr=log, **self._as_user()
            )
        block_until(self._responds, "PostgreSQL responds", patience_s=30,
                    details=lambda: (self._folder / "log").read_text(errors="replace"))  # fmt: skip

    def _responds(self) -> bool:
        with suppress(psycopg.OperationalError):
            psycopg.connect(self.admin_url, connect_timeout=2).close()
            return True
        return False

    @property
    def admin_url(self) -> str:
        return f"postgresql://qc@127.0.0.1:{self.port}/postgres"

    def database(self) -> str:
        """Create an empty database and return its URL."""
        self._databases += 1
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE calls{self._databases}")
        return f"postgresql://qc@127.0.0.1:{self.port}/calls{self._databases}"

    def stop(self) -> None:
        """End it at once, with all connections."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(30)
            self._process = None

    def remove(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # a shutdown in good order is the quicker one
            self._process.wait(30)
        shutil.rmtree(self._folder, ignore_errors=True)


def _other_user() -> str | None:
    if os.geteuid() != 0:
        return None
    with suppress(KeyError):
        return pwd.getpwnam("postgres").pw_name
    return "nobody"


def find_postgres() -> Path:
    """Return the folder of PostgreSQL's programs, or skip the test."""
    for folder in [*sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True), *os.get_exec_path()]:
        if all(os.access(Path(folder, name), os.X_OK) for name in ("initdb", "postgres")):
            return Path(folder)
    pytest.skip("PostgreSQL is not installed (Debian and Ubuntu: apt-get install postgresql)")
