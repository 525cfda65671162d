"""Metrics of a scheduled run, as a file for the text-file collector of Prometheus' node exporter.

The run is a job and not part of a server: it may be on another machine, and several servers share its result. A file
needs no further service, and the collector's `node_textfile_mtime_seconds` shows when the job has stopped.
"""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from speech_qc.baseline.periods import Periods, seconds_since_1970
from speech_qc.baseline.ranges import Baseline


def write_metrics(path: Path, found: Baseline, periods: Periods, by: str) -> None:
    """Write the numbers of groups; their names are in the JSON only, since label values must be few.

    Args:
        path: File, `….prom`; replaced at once, so that the collector never reads half of it.
        found: The result.
        periods: The recordings.
        by: What the groups are, such as `trunk`; the label of each metric.

    Raises:
        OSError: It cannot be written.
    """
    registry = CollectorRegistry()

    def gauge(name: str, about: str, value: float) -> None:
        Gauge(f"speechqc_baseline_{name}", about, ["by"], registry=registry).labels(by).set(value)

    judged = {one.group for one in found.comparisons if one.period == periods.latest}
    gauge("groups_out_of_range", "Groups out of their normal range in the latest period.", len(found.out_of_range))
    gauge("groups_judged", "Groups with enough recordings in the latest period and before.", len(judged))
    gauge("groups", "Groups with any recording.", len(periods.recordings))
    if periods.latest is not None:
        started = seconds_since_1970(periods.latest, periods.length)
        gauge("latest_period_timestamp_seconds", "Start of the latest period with a recording.", started)
    write_to_textfile(str(path), registry)
