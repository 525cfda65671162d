"""A server in a separate process, with its log in a file."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from waiting import block_until

PATIENCE_S = 120.0


class ServerProcess:
    """A server process, or the parent of several workers.

    Args:
        process: The process.
        port: The port on which it listens.
        log: Its log file.
    """

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process, self.port, self._log = process, port, log
        self.url = f"http://127.0.0.1:{port}"

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def until(self, happened: Callable[[], object], what: str) -> None:
        """Wait until a condition is true; a failure shows the log."""
        block_until(happened, what, patience_s=PATIENCE_S, every_s=0.05, details=self.log)

    def ends(self) -> int:
        """Wait for the exit and return the exit code."""
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end:\n{self.log()}") from None
