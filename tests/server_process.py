"""A server in a process of its own, its log in a file."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from waiting import block_until

PATIENCE_S = 120.0


class ServerProcess:
    """A process that serves, or the parent of those that do.

    Args:
        process: It.
        port: Where it listens.
        log: File that it writes to.
    """

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process, self.port, self._log = process, port, log
        self.url = f"http://127.0.0.1:{port}"

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def until(self, happened: Callable[[], object], what: str) -> None:
        """Wait until something has happened; the failure shows the log."""
        block_until(happened, what, patience_s=PATIENCE_S, every_s=0.05, details=self.log)

    def ends(self) -> int:
        """Exit code, once it has ended."""
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end:\n{self.log()}") from None
