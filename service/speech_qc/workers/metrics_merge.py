"""One scrape for all workers: their metrics, each series with the label `worker`, in Prometheus' text format.

Text is joined, not numbers added up: sums and quantiles over workers are a query, and which worker is late is not lost.
"""

from __future__ import annotations

from collections.abc import Mapping

UP = (
    "# HELP speechqc_worker_up 1 while the worker answers.\n# TYPE speechqc_worker_up gauge\n",
    "speechqc_worker_up",
)
RESTARTS = (
    "# HELP speechqc_worker_restarts_total Times that the worker was started again after it had ended.\n"
    "# TYPE speechqc_worker_restarts_total counter\n",
    "speechqc_worker_restarts_total",
)


def merge(texts: Mapping[int, str | None], restarts: Mapping[int, int]) -> str:
    """Join the metrics of all workers.

    Args:
        texts: What each worker's registry writes; None of a worker that is dead or does not answer.
        restarts: How often each was started again.

    Returns:
        Every family once, with the series of all workers that have it; then which workers are up.
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
    """Put the label into a sample's line; names hold no brace and no space, so the first one ends them."""
    if "{" in line:
        name, _, rest = line.partition("{")
        return f'{name}{{worker="{worker}",{rest}'
    name, _, value = line.partition(" ")
    return f'{name}{{worker="{worker}"}} {value}'
