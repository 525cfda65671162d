import threading
from bisect import bisect_left

import pytest
from prometheus_client import (
    CollectorRegistry,
    Gauge,
    Histogram,
    disable_created_metrics,
    enable_created_metrics,
    generate_latest,
)

from speech_qc.telemetry.histogram import VECTOR_FROM, BatchHistogram
from speech_qc.telemetry.metrics import BATCH_BUCKETS, LAG_BUCKETS, SECONDS_BUCKETS

# Sums of these are exact in any order, so that the text can be compared to the last digit.
VALUES = [0.0, 0.001953125, 0.03125, 0.5, 1.0, 2.0, 64.0, 100.0, 1e6, 256.0, 257.0]


def text_of(registry: CollectorRegistry) -> str:
    """What a scrape reads, but for the moment at which a series began."""
    return "\n".join(
        line.split(" ")[0] if "_created" in line and not line.startswith("#") else line
        for line in generate_latest(registry).decode().splitlines()
    )


def both(buckets, labels=()):
    registries = CollectorRegistry(), CollectorRegistry()
    theirs = Histogram("speechqc_x_seconds", 'A "text"\\.', labels, buckets=buckets, registry=registries[0])
    ours = BatchHistogram("speechqc_x_seconds", 'A "text"\\.', labels, buckets=buckets, registry=registries[1])
    return registries, theirs, ours


@pytest.mark.parametrize("buckets", [SECONDS_BUCKETS, LAG_BUCKETS, BATCH_BUCKETS, (0.5, 1e7, float("inf"))])
@pytest.mark.parametrize("times", [1, VECTOR_FROM])
def test_a_scrape_reads_what_the_clients_own_histogram_writes(buckets, times):
    registries, theirs, ours = both(buckets, ["lane"])
    for lane in ("live", 'a "b"\\c'):
        for value in VALUES * times:
            theirs.labels(lane).observe(value)
        ours.labels(lane).observe(VALUES[0])
        ours.labels(lane).observe_many(VALUES[1:])
        ours.labels(lane).observe_many(VALUES * (times - 1))
    assert text_of(registries[1]) == text_of(registries[0])
    assert registries[1].get_sample_value("speechqc_x_seconds_count", {"lane": "live"}) == len(VALUES) * times


def test_without_labels_the_series_shows_before_it_counts_and_with_labels_it_does_not():
    for labels in ((), ("lane",)):
        registries, _, ours = both(SECONDS_BUCKETS, labels)
        assert text_of(registries[1]) == text_of(registries[0])
        assert ("_count 0.0" in text_of(registries[1])) == (labels == ())
        assert labels or ours.labels() is ours.labels()


def test_the_created_series_follows_the_clients_switch():
    registries, theirs, ours = both((1.0,), ["lane"])
    theirs.labels("a"), ours.labels("a")
    assert text_of(registries[1]).count("_created") == 3
    disable_created_metrics()
    try:
        assert "_created" not in text_of(registries[1])
        assert text_of(registries[1]) == text_of(registries[0])
    finally:
        enable_created_metrics()


@pytest.mark.parametrize("size", [3, VECTOR_FROM])
def test_what_is_not_a_number_is_in_the_sum_and_in_no_bucket(size):
    registries, theirs, ours = both((1.0, 2.0))
    values = [float("nan"), 2.0, float("inf")] + [1.5] * (size - 3)
    for value in values:
        theirs.observe(value)
    ours.labels().observe_many(values)
    assert text_of(registries[1]) == text_of(registries[0])


@pytest.mark.parametrize("size", [0, 1, VECTOR_FROM - 1, VECTOR_FROM, 500])
def test_many_values_are_counted_as_one_by_one(size):
    series = BatchHistogram("x", "y", buckets=LAG_BUCKETS).labels()
    values = [((7 * i) % 64) / 256 for i in range(size)]
    series.observe_many(values)
    expected = [0] * (len(LAG_BUCKETS) + 1)
    for value in values:
        expected[bisect_left(LAG_BUCKETS, value)] += 1
    assert series.read() == (expected, sum(values))


def test_nothing_is_lost_when_several_threads_observe_and_a_scrape_reads_one_moment():
    series = BatchHistogram("x", "y", buckets=(0.5,)).labels()
    rounds, threads = 300, 4

    def observe() -> None:
        for _ in range(rounds):
            series.observe(1.0)
            series.observe_many([1.0] * 5)
            series.observe_many([1.0] * VECTOR_FROM)

    workers = [threading.Thread(target=observe) for _ in range(threads)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        counts, total = series.read()
        assert sum(counts) == total
    for worker in workers:
        worker.join()
    assert series.read()[1] == rounds * threads * (6 + VECTOR_FROM)


def test_a_second_metric_of_the_name_is_refused():
    registry = CollectorRegistry()
    BatchHistogram("speechqc_x", "y", buckets=(1.0,), registry=registry)
    for name in ("speechqc_x", "speechqc_x_sum"):
        with pytest.raises(ValueError, match="Duplicated"):
            Gauge(name, "y", registry=registry)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"buckets": (2.0, 1.0)}, "sorted"),
        ({"buckets": ()}, "two buckets"),
        ({"buckets": (-1.0, 1.0)}, "expected bounds from 0 up, got -1.0"),
        ({"buckets": (1.0,), "labels": ["le"]}, "le"),
    ],
)
def test_what_prometheus_does_not_take_is_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        BatchHistogram("x", "y", **options)


def test_wrong_numbers_of_labels_are_named():
    with pytest.raises(ValueError, match=r"labels \('lane',\), got \(\)"):
        BatchHistogram("x", "y", ["lane"], buckets=(1.0,)).labels()
    with pytest.raises(ValueError, match=r"labels \(\), got \('live',\)"):
        BatchHistogram("x", "y", buckets=(1.0,)).labels("live")
