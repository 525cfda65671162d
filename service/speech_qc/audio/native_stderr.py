"""Keeps what C libraries print out of a program's log.

libmpg123, which is part of libsndfile, prints warnings about broken MP3 files to descriptor 2, between our own log
lines and without a request id; no option turns that off. A program that owns its process calls `keep_stderr` at its
start: from then on `sys.stderr` writes to a descriptor of its own, and descriptor 2 can lead nowhere while such a
library works. At all other times it is as before, so that messages about a crash of the interpreter appear. A library
must not do that to its host, so in other programs nothing changes.
"""

from __future__ import annotations

import faulthandler
import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_STDERR = 2


class _State:
    """Where descriptor 2 leads; one per process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.depth = 0  # threads that are inside `silenced`
        self.kept: int | None = None  # the real standard error
        self.nowhere: int | None = None


_state = _State()


def keep_stderr() -> None:
    """Give `sys.stderr` and faulthandler a descriptor of their own; called once, by a program, at its start."""
    if _state.kept is not None or sys.stderr is None:
        return
    try:
        kept = os.dup(_STDERR)
    except OSError:  # it is closed
        return
    _state.kept, _state.nowhere = kept, os.open(os.devnull, os.O_WRONLY)
    sys.stderr.flush()
    stream = io.TextIOWrapper(
        io.FileIO(kept, "wb", closefd=False), sys.stderr.encoding, sys.stderr.errors, line_buffering=True
    )
    sys.stderr = sys.__stderr__ = stream  # type: ignore[misc]  # faulthandler and others use the latter
    if faulthandler.is_enabled():
        faulthandler.enable(kept)


@contextmanager
def silenced() -> Iterator[None]:
    """Discard what anything in this process writes to descriptor 2; no effect without `keep_stderr`.

    Several threads may be inside; the last one to leave restores the descriptor.
    """
    kept, nowhere = _state.kept, _state.nowhere
    if kept is None or nowhere is None:
        yield
        return
    with _state.lock:
        _state.depth += 1
        if _state.depth == 1:
            os.dup2(nowhere, _STDERR)
    try:
        yield
    finally:
        with _state.lock:
            _state.depth -= 1
            if _state.depth == 0:
                os.dup2(kept, _STDERR)
