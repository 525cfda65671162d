"""The metrics as defined in the code."""

from __future__ import annotations

import re

from prometheus_client.metrics import MetricWrapperBase

from speech_qc.telemetry.metrics import Metrics

SUFFIX = {"counter": "_total", "info": "_info"}


def metric_rows() -> dict[str, tuple[str, tuple[str, ...], str]]:
    """Return type, labels and help text of every metric of this service, by series name."""
    metrics = Metrics()
    labels: dict[str, tuple[str, ...]] = {}
    for collector in metrics.registry._collector_to_names:
        if isinstance(collector, MetricWrapperBase):
            labels[collector._name] = tuple(collector._labelnames)
    return {
        family.name + SUFFIX.get(family.type, ""): (family.type, labels[family.name], family.documentation)
        for family in metrics.registry.collect()
        if family.name.startswith("speechqc_")
    }


def metrics_in(text: str) -> set[str]:
    """Return the service's metrics in a text of expressions, without histogram suffixes."""
    found = set(re.findall(r"(?<![:\w])speechqc_\w+", text))
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in found}
