"""How often Python's collector of cycles looks through the objects of this process."""

from __future__ import annotations

import gc

THRESHOLDS = (100_000, 50, 100)
"""As it comes (700, 10, 10), it looks through all objects far too often: at the start, when imports make a hundred
thousand objects that all stay (a fifth of the time until ready), and in a process with hundreds of streams, each of
which makes and drops dozens of them a second. Streams and connections are freed when they end, without the collector;
but what some errors leave is a cycle, and these thresholds would find it hours later. So a server looks by the clock,
too: `collect_now`."""

COLLECT_S = 10.0
"""From one look by the clock to the next. The loop stands still for it, and the longer, the more streams there are;
what errors leave in the meantime is little."""


def collect_seldom() -> None:
    """Have the collector look seldom from now on; called by programs, first of all, never by what they import."""
    gc.set_threshold(*THRESHOLDS)


def keep_what_is_here() -> None:
    """Spare the collector the modules, the model and the application, which stay until the end.

    Without a collection before: imports leave some hundred dead objects, and to find them takes a tenth of a second of
    a start.
    """
    gc.freeze()


def collect_now() -> None:
    """Look through everything but what was kept at the start, and free what is not needed any more."""
    gc.collect()
