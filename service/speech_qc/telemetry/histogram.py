"""A Prometheus histogram that takes many values at once, for what is observed at every chunk.

prometheus_client's own takes a lock for each of the two numbers that it changes and walks the bounds one by one; at ten
thousand chunks a second that is felt. What a scrape reads is the same, to the letter.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Histogram, Metric
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

VECTOR_FROM = 64
"""Values from which NumPy is faster than a loop over `bisect`; found by timing both."""


class HistogramSeries:
    """The counts of one set of label values. Any thread may observe.

    Args:
        bounds: Upper bounds of the buckets, ascending, the last one infinite.
    """

    __slots__ = ("_array", "_bounds", "_counts", "_lock", "_sum", "created_s")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = list(bounds)
        self._array = np.array(bounds, np.float64)
        self._counts = [0] * len(bounds)
        self._sum = 0.0
        self._lock = Lock()
        self.created_s = time.time()
        """When it began to count, seconds since 1970, for the `_created` series."""

    def observe(self, value: float) -> None:
        """Count one value; one that is not a number enters the sum alone, as in prometheus_client."""
        place = bisect_left(self._bounds, value)
        with self._lock:
            self._sum += value
            if value == value:
                self._counts[place] += 1

    def observe_many(self, values: Sequence[float]) -> None:
        """Count every value under one lock; the same as `observe` for each."""
        if len(values) >= VECTOR_FROM:
            self._observe_array(np.asarray(values, np.float64))
            return
        total = sum(values)
        # Only when the sum is no number can one of the values be none; asking once is cheaper than asking each.
        counted = values if total == total else [value for value in values if value == value]
        bounds, counts = self._bounds, self._counts
        with self._lock:
            self._sum += total
            for value in counted:
                counts[bisect_left(bounds, value)] += 1

    def _observe_array(self, values: NDArray[np.float64]) -> None:
        size = len(self._bounds)
        # NumPy sorts what is not a number behind infinity, one place beyond the last bucket; it is cut off.
        added = np.bincount(np.searchsorted(self._array, values), minlength=size)[:size].tolist()
        total = float(values.sum())
        with self._lock:
            self._sum += total
            for place, more in enumerate(added):
                self._counts[place] += more

    def read(self) -> tuple[list[int], float]:
        """Counts per bucket (not cumulated) and the sum of all values, of one moment."""
        with self._lock:
            return list(self._counts), self._sum


class BatchHistogram(Collector):
    """A histogram whose series, one for each tuple of label values, count many values at once.

    Without labels there is one series: `labels()`.

    Args:
        name: Name of the metric, with its unit.
        documentation: What it says.
        labels: Names of the labels.
        buckets: Upper bounds, ascending, none negative; infinity is added.
        registry: Where to register; None for nowhere.

    Raises:
        ValueError: A name or the bounds are not what Prometheus takes.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str] = (),
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry | None = None,
    ) -> None:
        Histogram(name, documentation, labels, buckets=buckets, registry=None)  # refuses what is not allowed
        # One that stays empty tells how bounds are written and whether `_created` is wanted; nothing else public does.
        self._model = Histogram(name, documentation, buckets=buckets, registry=None)
        written = [s.labels["le"] for metric in self._model.collect() for s in metric.samples if "le" in s.labels]
        self._written, self._bounds = written, [float(text) for text in written]
        if self._bounds[0] < 0:
            raise ValueError(f"{name}: expected bounds from 0 up, got {self._bounds[0]}")
        self._name, self._documentation, self._labels = name, documentation, tuple(labels)
        self._series: dict[tuple[str, ...], HistogramSeries] = {}
        self._lock = Lock()
        if not self._labels:
            self._series[()] = HistogramSeries(self._bounds)  # there is only one, so it shows before it counts
        if registry is not None:
            registry.register(self)

    def labels(self, *values: str) -> HistogramSeries:
        """Series of these label values, in the labels' order; made when it is asked for the first time.

        Raises:
            ValueError: Not as many values as labels.
        """
        series = self._series.get(values)
        if series is not None:
            return series
        if len(values) != len(self._labels):
            raise ValueError(f"{self._name}: expected a value for each of the labels {self._labels}, got {values}")
        with self._lock:
            return self._series.setdefault(values, HistogramSeries(self._bounds))

    def describe(self) -> Iterable[Metric]:
        """Name and type, for the registry's check against a second metric of this name."""
        return [HistogramMetricFamily(self._name, self._documentation, labels=self._labels)]

    def collect(self) -> Iterable[Metric]:
        """One family with all series."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        created = any(s.name.endswith("_created") for metric in self._model.collect() for s in metric.samples)
        with self._lock:
            series = list(self._series.items())
        for values, one in series:
            counts, total = one.read()
            family.add_metric(values, list(zip(self._written, map(float, accumulate(counts)), strict=True)), total)
            if created:
                labels = dict(zip(self._labels, values, strict=True))
                family.add_sample(f"{self._name}_created", labels, one.created_s)
        return [family]
