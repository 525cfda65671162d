"""Tuning of Python's cyclic garbage collector, and giving back what is free."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

THRESHOLDS = (100_000, 50, 100)
"""The default thresholds (700, 10, 10) trigger too many full collections: at startup, when imports create a hundred
thousand objects that all stay (a fifth of the time until ready), and in a process with hundreds of streams, each of
which creates and drops dozens of objects a second. Streams and connections are freed when they end, without the garbage
collector. But some errors leave reference cycles, which would only be found hours later with these thresholds. So a
server also collects periodically: `collect_now`."""

COLLECT_S = 10.0
"""Seconds between periodic collections. A collection blocks the event loop, and takes longer with more streams; errors
leave little garbage in the meantime."""


def raise_gc_thresholds() -> None:
    """Make collections rare from now on; programs call this before anything else, imported modules never call it."""
    gc.set_threshold(*THRESHOLDS)


def pause_collections() -> None:
    """Collect nothing until `freeze_startup_objects`: nearly all that a server imports and builds before it stays."""
    gc.disable()


def resume_collections() -> None:
    """Collect again, if the start ended before `freeze_startup_objects`."""
    gc.enable()


def freeze_startup_objects() -> None:
    """Exclude the modules, the model and the application from collection, because they live as long as the process.

    Ends the pause of `pause_collections`.

    No collection runs first: imports leave a few hundred dead objects, and finding them would add a tenth of a second
    to startup.
    """
    gc.freeze()
    gc.enable()


def collect_now() -> None:
    """Run a full collection of everything except the objects excluded at startup, and give free memory back.

    The C library keeps free memory between what is in use, which after an overload, or after many streams were opened
    at once, may be most of its heap. Only glibc can give it back (`malloc_trim`, a millisecond).
    """
    gc.collect()
    with suppress(AttributeError, OSError, TypeError):  # another C library; Windows
        ctypes.CDLL(None).malloc_trim(0)
