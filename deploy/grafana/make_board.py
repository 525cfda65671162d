"""Write the Grafana dashboard: `python deploy/grafana/make_board.py`. Edit the panels here, not the JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BOARD = Path(__file__).parent / "boards" / "speech-qc.json"

SELECTOR = 'job="speech-qc",instance=~"$instance"'
RATE = "[$__rate_interval]"
SOURCE = {"type": "prometheus", "uid": "prometheus"}


def series(metric: str, labels: str = "") -> str:
    """Return the selector of a metric, for the selected instances."""
    return f"speechqc_{metric}{{{SELECTOR}{',' + labels if labels else ''}}}"


def rate(metric: str, by: str = "", labels: str = "") -> str:
    """Return the rate of a metric per second, summed over instances and workers."""
    return f"sum{f' by ({by})' if by else ''} (rate({series(metric, labels)}{RATE}))"


def quantile(share: float, metric: str, by: str = "", labels: str = "") -> str:
    """Return a quantile of a histogram."""
    groups = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {rate(metric + '_bucket', groups, labels)})"


def quantiles(metric: str, labels: str = "") -> list[tuple[str, str]]:
    """Return the median, the 95th and the 99th percentile of a histogram."""
    return [(quantile(share, metric, labels=labels), f"p{100 * share:g}") for share in (0.5, 0.95, 0.99)]


def mean(metric: str, by: str) -> str:
    """Return the mean of the observations of a histogram."""
    return f"{rate(metric + '_sum', by)} / {rate(metric + '_count', by)}"


LIVE = 'lane=~"live|flush"'

# Row, then its panels: title, unit, kind, [(expression, legend)].
ROWS: list[tuple[str, list[tuple[str, str, str, list[tuple[str, str]]]]]] = [
    ("Now", [
        ("Instances up", "short", "stat", [(f"sum(up{{{SELECTOR}}})", "up")]),
        ("Ready", "short", "stat", [(f"min({series('ready')})", "ready")]),
        ("Engine alive", "short", "stat", [(f"min({series('engine_alive')})", "alive")]),
        ("Workers up", "short", "stat", [(f"sum({series('worker_up')}) or count({series('engine_alive')})", "up")]),
        ("CPU fallback", "short", "stat", [(f"max({series('provider_fallback')})", "fallback")]),
        ("Model", "string", "stat", [
            (f"max by (instance, name, version) ({series('model_info')})", "{{name}} {{version}} ({{instance}})"),
        ]),
        ("Provider", "string", "stat", [(f"max by (name) ({series('provider_info')})", "{{name}}")]),
    ]),
    ("Live streams", [
        ("Streams and places", "short", "timeseries", [
            (f"sum({series('streams_active')})", "streams"),
            (f"sum({series('live_channels')})", "channels"),
            (f"sum({series('live_channels_limit')})", "places"),
        ]),
        ("Lag from arrival to scores", "s", "timeseries", quantiles("stream_lag_seconds")),
        ("Streams started and ended", "ops", "timeseries", [
            (rate("streams_started_total"), "started"),
            (rate("streams_ended_total", "outcome"), "{{outcome}}"),
        ]),
        ("Warnings to clients", "ops", "timeseries", [(rate("stream_warnings_total", "code"), "{{code}}")]),
    ]),
    ("Uploads", [
        ("Uploads by outcome", "ops", "timeseries", [(rate("uploads_total", "outcome"), "{{outcome}}")]),
        ("Active uploads and places", "short", "timeseries", [
            (f"sum({series('uploads_active')})", "uploads"),
            (f"sum({series('uploads_limit')})", "places"),
        ]),
        ("Memory of uploads and responses", "bytes", "timeseries", [
            (f"max by (instance) ({series('held_bytes')})", "{{instance}}"),
            (f"max({series('held_bytes_limit')})", "limit per process"),
        ]),
        ("Upload time by stage, mean", "s", "timeseries", [
            (mean("upload_stage_seconds", "stage"), "{{stage}}"),
        ]),
        ("HTTP requests by route and status", "reqps", "timeseries", [
            (rate("http_requests_total", "route, status"), "{{route}} {{status}}"),
        ]),
        ("HTTP response time, p95", "s", "timeseries", [
            (quantile(0.95, "http_request_duration_seconds", "route"), "{{route}}"),
        ]),
    ]),
    ("Engine", [
        ("Audio scored, x real time", "short", "timeseries", [(rate("audio_seconds_total", "path"), "{{path}}")]),
        ("Frames scored", "ops", "timeseries", [(rate("frames_scored_total"), "frames")]),
        ("Step time, live", "s", "timeseries", quantiles("step_duration_seconds", LIVE)),
        ("Step time by lane, p95", "s", "timeseries", [(quantile(0.95, "step_duration_seconds", "lane"), "{{lane}}")]),
        ("Wait for a step by lane, p95", "s", "timeseries", [
            (quantile(0.95, "queue_duration_seconds", "lane"), "{{lane}}"),
        ]),
        ("Chunks per step, mean", "short", "timeseries", [
            (mean("batch_size", "lane"), "{{lane}}"),
        ]),
        ("Queued chunks and sessions", "short", "timeseries", [
            (f"sum({series('engine_queued_chunks')})", "chunks"),
            (f"sum({series('sessions_active')})", "sessions"),
        ]),
        ("Refused and dropped", "ops", "timeseries", [
            (rate("refusals_total", "reason"), "refused: {{reason}}"),
            (rate("chunks_dropped_total", "reason"), "dropped: {{reason}}"),
        ]),
    ]),
    ("Audio quality", [
        ("Share of noisy frames", "percentunit", "timeseries", [
            # A second of audio is 50 frames.
            (f"{rate('noisy_frames_total', 'path')} / (50 * {rate('audio_seconds_total', 'path')})", "{{path}}"),
        ]),
        ("Events by label", "ops", "timeseries", [(rate("events_total", "label"), "{{label}}")]),
        ("Channel SNR", "dB", "timeseries", [
            (quantile(0.1, "snr_db"), "p10"), (quantile(0.5, "snr_db"), "p50"),
        ]),
        ("Verdicts", "ops", "timeseries", [(rate("verdicts_total", "status"), "{{status}}")]),
    ]),
    ("Calls", [
        ("Calls begun by vendor", "ops", "timeseries", [(rate("calls_total", "vendor"), "{{vendor}}")]),
        ("Events between legs", "ops", "timeseries", [(rate("interactions_total", "kind"), "{{kind}}")]),
        ("Webhooks", "ops", "timeseries", [(rate("webhooks_total", "outcome"), "{{outcome}}")]),
        ("Waiting results and webhooks", "short", "timeseries", [
            (f"sum({series('results_waiting')})", "results"),
            (f"max({series('webhooks_waiting')})", "webhooks"),
        ]),
    ]),
    ("Process", [
        ("CPU cores used", "short", "timeseries", [
            (f"sum by (instance) (rate(process_cpu_seconds_total{{{SELECTOR}}}{RATE}))", "{{instance}}"),
        ]),
        ("Memory", "bytes", "timeseries", [
            (f"sum by (instance) (process_resident_memory_bytes{{{SELECTOR}}})", "{{instance}}"),
        ]),
        ("Open files", "short", "timeseries", [
            (f"max by (instance) (process_open_fds{{{SELECTOR}}})", "{{instance}}"),
            (f"min by (instance) (process_max_fds{{{SELECTOR}}})", "limit {{instance}}"),
        ]),
        ("Restarts in 15 minutes", "short", "timeseries", [
            (f"max by (instance) (changes(process_start_time_seconds{{{SELECTOR}}}[15m]))", "{{instance}}"),
        ]),
    ]),
]  # fmt: skip


def panel(title: str, unit: str, kind: str, targets: list[tuple[str, str]], place: dict[str, int]) -> dict[str, Any]:
    """Return one panel."""
    options: dict[str, Any] = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    if kind == "stat":
        names = unit == "string"
        # The current value: the last value of a range would show a stopped service as it was before.
        options = {"textMode": "name" if names else "value", "colorMode": "none", "reduceOptions": {"calcs": ["last"]}}
    now = {"instant": True, "range": False} if kind == "stat" else {}
    return {
        "title": title,
        "type": kind,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": "short" if unit == "string" else unit, "min": 0}, "overrides": []},
        "options": options,
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": SOURCE, "expr": expression, "legendFormat": legend} | now
            for number, (expression, legend) in enumerate(targets)
        ],
    }


def board() -> dict[str, Any]:
    """Return the whole dashboard."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row, members in ROWS:
        place = {"x": 0, "y": top, "w": 24, "h": 1}
        panels.append({"title": row, "type": "row", "collapsed": False, "panels": [], "gridPos": place})
        top += 1
        width, height = (24 // len(members), 4) if row == "Now" else (8, 8)
        for number, (title, unit, kind, targets) in enumerate(members):
            across = 24 // width
            x, y = number % across * width, top + number // across * height
            panels.append(panel(title, unit, kind, targets, {"x": x, "y": y, "w": width, "h": height}))
        top += -(-len(members) // (24 // width)) * height
    for number, one in enumerate(panels, start=1):
        one["id"] = number
    query = 'label_values(speechqc_engine_alive{job="speech-qc"}, instance)'
    instance = {
        "name": "instance", "type": "query", "datasource": SOURCE, "definition": query,
        "query": {"query": query, "refId": "instance"}, "refresh": 2, "includeAll": True, "multi": True,
        "allValue": ".*", "current": {"text": "All", "value": "$__all"},
    }  # fmt: skip
    return {
        "uid": "speech-qc", "title": "speech-qc", "tags": ["speech-qc"], "schemaVersion": 39, "version": 1,
        "editable": False, "refresh": "10s", "time": {"from": "now-30m", "to": "now"}, "timezone": "browser",
        "templating": {"list": [instance]}, "panels": panels,
    }  # fmt: skip


def text() -> str:
    """Return the dashboard as the JSON text of the file."""
    return json.dumps(board(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    BOARD.write_text(text(), encoding="utf-8")
