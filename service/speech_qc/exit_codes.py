"""Exit codes of every program in this package."""

from __future__ import annotations

OK = 0
"""Done; for `inspect` and `stream` no verdict reached `--fail-on`, for `doctor` all is well."""
FOUND = 1
"""A verdict reached `--fail-on`, `doctor` warns, `capacity` found no number that holds, a worker had to be killed."""
ERROR = 2
"""A wrong option or setting, a recording that cannot be read, a server that cannot start."""
FATAL = 70
"""A server that can no longer serve ended itself, so that its supervisor starts another (EX_SOFTWARE of sysexits.h)."""
INTERRUPTED = 130
"""Ctrl-C, as shells have it: 128 and the number of the signal."""
CLOSED_PIPE = 141
"""The reader of standard output is gone, as after `| head`; likewise."""


def of_signal(number: int) -> int:
    """Return the exit code of a program that a signal ended, as shells have it."""
    return 128 + number
