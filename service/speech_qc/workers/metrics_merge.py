"""Merges the metrics of all workers for one scrape: each series gets the label `worker`, in Prometheus text format.

Series are joined, not summed: queries can aggregate over workers, and a slow worker stays visible.
"""

from __future__ import annotations

from collections.abc import Mapping

UP = (
    "# HELP speechqc_worker_up 1 if the worker answers, 0 otherwise.\n# TYPE speechqc_worker_up gauge\n",
    "speechqc_worker_up",
)
RESTARTS = (
    "# HELP speechqc_worker_restarts_total Number of times the worker was restarted after it exited.\n"
    "# TYPE speechqc_worker_restarts_total counter\n",
    "speechqc_worker_restarts_total",
)


def merge(texts: Mapping[int, str | None], restarts: Mapping[int, int]) -> str:
    """Join the metrics of all workers.

    Args:
        texts: The metrics of each worker in text format; None for a worker that is dead or does not answer.
        restarts: Number of restarts of each worker.

    Returns:
        Every family once, with the series of all workers that have it; then which workers are up, and their restarts.
    """
    families: dict[str, list[str]] = {}  # "# HELP" line -> everything below it
    for worker, text in sorted(texts.items()):
        family: list[str] = []
        for line in (text or "").splitlines(keepends=True):
            if line.startswith("# HELP "):
                family = families.setdefault(line, [])
            elif not line.startswith("#"):
                family.append(labelled(line, worker))
            elif line not in family:  # "# TYPE" once, before the first worker's series
                family.append(line)
    for (head, name), values in ((UP, {w: int(t is not None) for w, t in texts.items()}), (RESTARTS, restarts)):
        families[head] = [f'{name}{{worker="{worker}"}} {value:.1f}\n' for worker, value in sorted(values.items())]
    return "".join(head + "".join(lines) for head, lines in families.items())


def labelled(line: str, worker: int) -> str:
    """Add the label to a sample's line; a name contains neither brace nor space, so the first of them ends it."""
    if "{" in line:
        name, _, rest = line.partition("{")
        return f'{name}{{worker="{worker}",{rest}'
    name, _, value = line.partition(" ")
    return f'{name}{{worker="{worker}"}} {value}'
