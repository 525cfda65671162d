"""A real server, in a separate process, whose device can be made to hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from server_process import ServerProcess
from signals import voice, wav_bytes

PROGRAM = Path(__file__).with_name("hanging_server.py")
ROOT = Path(__file__).resolve().parents[2]
SOUND = wav_bytes(voice(0.5))


class Frail(ServerProcess):
    """A server whose device hangs in the next step after `hang` is called."""

    def __init__(self, folder: Path, port: int, settings: dict[str, str]) -> None:
        self._switch = folder / "switch"
        given = {"HOST": "127.0.0.1", "PORT": str(port), "STEP_DEADLINE_S": "2", "DRAIN_S": "2"} | settings
        environment = os.environ | {f"SPEECHQC_{name}": value for name, value in given.items()}
        environment["PYTHONPATH"] = str(ROOT)
        log = folder / "log"
        with log.open("ab") as out:
            command = [sys.executable, str(PROGRAM), str(self._switch)]
            super().__init__(subprocess.Popen(command, env=environment, stdout=out, stderr=out), port, log)

    def hang(self) -> None:
        self._switch.touch()

    @property
    def may_hang(self) -> bool:
        """Whether the hanging step has not started yet."""
        return self._switch.exists()

    def readiness(self) -> tuple[int, str] | None:
        with suppress(httpx.TransportError):
            answer = httpx.get(f"{self.url}/health/ready", timeout=2)
            return answer.status_code, answer.json()["status"]
        return None

    def inspect(self) -> int | None:
        with suppress(httpx.TransportError):
            return httpx.post(f"{self.url}/v1/inspect", content=SOUND, timeout=10).status_code
        return None


@contextmanager
def started(folder: Path, port: int, **settings: str) -> Iterator[Frail]:
    server = Frail(folder, port, settings)
    try:
        server.until(lambda: server.process.poll() is not None or server.readiness() == (200, "ready"), "readiness")
        assert server.process.poll() is None, server.log()
        yield server
    finally:
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
            server.process.send_signal(signal.SIGTERM)
            try:
                server.process.wait(20)
            except subprocess.TimeoutExpired:
                server.process.kill()
                server.process.wait()
