"""Metrics of a scheduled run, as a file for the text-file collector of Prometheus' node exporter.

The run is a job and not part of a server: it may be on another machine, and several servers share its result. A file
needs no further service, and the collector's `node_textfile_mtime_seconds` shows when the job has stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from speech_qc.baseline.periods import Periods, seconds_since_1970
from speech_qc.baseline.ranges import Baseline

PREFIX = "speechqc_baseline_"
METRICS: Mapping[str, str] = MappingProxyType(
    {
        "groups_out_of_range": "Groups that were out of their normal range when last compared, among those judged.",
        "groups_judged": "Groups that were compared in the latest period or the one before.",
        "groups": "Groups with any recording in a period that has ended.",
        "latest_period_timestamp_seconds": "Start of the latest period with a comparison; absent if there is none.",
    }
)
"""Gauges by the name after the prefix, with their meaning."""


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
    values: dict[str, float] = {
        "groups_out_of_range": len(found.out_of_range),
        "groups_judged": len(found.judged),
        "groups": len(periods.recordings),
    }
    if found.latest is not None:
        values["latest_period_timestamp_seconds"] = seconds_since_1970(found.latest, periods.length)
    registry = CollectorRegistry()
    for name, value in values.items():
        Gauge(PREFIX + name, METRICS[name], ["by"], registry=registry).labels(by).set(value)
    write_to_textfile(str(path), registry)
