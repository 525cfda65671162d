"""Documents, rules and dashboard match the metrics in the code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest
from metrics_material import metric_rows, metrics_in

from speech_qc.baseline.textfile import METRICS as BASELINE_METRICS
from speech_qc.baseline.textfile import PREFIX
from speech_qc.telemetry.metrics import ABORTED, DISCONNECTED, OK, Metrics, error_codes
from speech_qc.wire.vocabulary import Status

ROOT = Path(__file__).resolve().parents[2]
OF_WORKERS = {"speechqc_worker_up", "speechqc_worker_restarts_total"}
OF_BASELINE = {f"{PREFIX}{name}" for name in BASELINE_METRICS}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_metric_is_documented_with_type_labels_and_meaning():
    document = read("docs/metrics.md")
    for name, (kind, labels, meaning) in metric_rows().items():
        row = f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {meaning} |"
        assert row in document, f"docs/metrics.md lacks the row\n{row}"
    for name, meaning in BASELINE_METRICS.items():
        assert f"| `{PREFIX}{name}` | gauge | `by` | {meaning} |" in document, name


def test_every_documented_metric_exists():
    rows = set(re.findall(r"^\| `(speechqc_\w+)`", read("docs/metrics.md"), re.M))
    assert rows == set(metric_rows()) | OF_WORKERS | OF_BASELINE


@pytest.mark.parametrize(
    "name",
    [
        "deploy/prometheus/rules/alerts.yml",
        "deploy/prometheus/rules/recording.yml",
        "deploy/prometheus/tests/alerts.yml",
        "deploy/prometheus/tests/hours.yml",
        "deploy/grafana/boards/speech-qc.json",
        "docs/metrics.md",
        "docs/runbook.md",
    ],
)
def test_no_expression_asks_for_a_metric_that_does_not_exist(name):
    text = read(name)
    if name.endswith(".json"):
        text = "\n".join(target["expr"] for panel in json.loads(text)["panels"] for target in panel.get("targets", ()))
    asked = metrics_in(text)
    assert asked
    assert asked <= set(metric_rows()) | OF_WORKERS | OF_BASELINE


def test_every_label_is_documented():
    document = read("docs/metrics.md").split("## Labels")[1]
    for name, (_, labels, _) in metric_rows().items():
        for label in labels:
            assert f"| `{label}`" in document, f"{name} has the label {label}"


def test_series_of_known_labels_are_there_before_anything_happened():
    found: dict[str, set[str]] = {}
    for family in Metrics().registry.collect():
        for sample in family.samples:
            for value in sample.labels.values():
                found.setdefault(sample.name, set()).add(value)
    assert set(error_codes()) < found["speechqc_streams_ended_total"]
    assert {"ok", "disconnected", "aborted"} < found["speechqc_streams_ended_total"]
    assert {"ok", "aborted", "invalid_audio"} < found["speechqc_uploads_total"]
    assert found["speechqc_chunks_dropped_total"] == {"cancelled", "deadline"}
    assert found["speechqc_refusals_total"] == {
        "sessions",
        "queue",
        "draining",
        "dead",
        "streams",
        "uploads",
        "key",
        "memory",
    }
    assert found["speechqc_access_refusals_total"] == {"unauthorized", "forbidden", "protocol_error"}
    assert found["speechqc_model_reloads_total"] == {"replaced", "unchanged", "failed"}
    assert found["speechqc_verdicts_total"] == set(get_args(Status))
    assert "too_slow" in found["speechqc_stream_warnings_total"]


def test_every_outcome_that_rules_ask_for_is_one_that_is_counted():
    named = re.findall(r'outcome[=!]~?"([^"]+)"', read("deploy/prometheus/rules/recording.yml"))
    assert named
    for group in named:
        assert set(group.split("|")) <= {OK, ABORTED, DISCONNECTED, *error_codes()}
