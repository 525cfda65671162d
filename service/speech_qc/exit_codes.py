"""Exit codes of every program in this package."""

from __future__ import annotations

OK = 0
"""Success; in `inspect` and `stream` nothing reached `--fail-on`, in `doctor` no check warns or fails."""
FOUND = 1
"""A verdict or a skipped file reached `--fail-on`, `doctor` warns, or `capacity` found no sustainable load."""
WORKER_FAILED = 1
"""A worker process had to be killed, or lost its parent."""
ERROR = 2
"""An invalid option or setting, a recording that cannot be read, or a server that cannot start."""
FATAL = 70
"""A server that can no longer serve exits, so that its supervisor starts another one (EX_SOFTWARE of sysexits.h)."""
INTERRUPTED = 130
"""Ctrl-C; as in shells, 128 plus the signal number."""
CLOSED_PIPE = 141
"""The reader of standard output has exited, as with `| head`; 128 plus the number of SIGPIPE."""


def of_signal(number: int) -> int:
    """Return the exit code that shells report for a program that a signal ended."""
    return 128 + number
