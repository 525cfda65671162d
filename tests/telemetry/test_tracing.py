"""Traces are off by default, join the caller's trace, and contain no payload."""

from __future__ import annotations

import subprocess
import sys

import pytest

from signals import voice, wav_bytes
from speech_qc.errors import SettingsError
from speech_qc.settings import Settings
from speech_qc.telemetry import tracing
from speech_qc.telemetry.tracing import Tracing, make_tracing

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def traced(make_client, monkeypatch):
    """Yield a client of a server whose spans stay in memory, and those spans."""
    sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="the extra `otel` is not installed")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("speech_qc.app.make_tracing", lambda _: Tracing(provider))
    return make_client(), exporter.get_finished_spans


def test_an_upload_is_a_span_with_its_stages_below_the_callers(traced):
    client, spans = traced
    client.post("/v1/inspect", content=wav_bytes(voice(1.0)), headers={"traceparent": CALLER, "X-Request-Id": "r1"})
    (span,) = spans()
    assert span.name == "POST /v1/inspect"
    assert format(span.context.trace_id, "032x") == CALLER.split("-")[1]
    facts = dict(span.attributes)
    assert facts["speechqc.request_id"] == "r1"
    assert facts["http.response.status_code"] == 200
    assert facts["speechqc.audio_s"] == 1.0
    assert {"speechqc.decode_s", "speechqc.queue_s", "speechqc.inference_s"} < set(facts)


def test_a_stream_is_a_span_with_its_outcome(traced):
    client, spans = traced
    with client.websocket_connect("/v1/stream") as session:
        session.send_text('{"type":"CloseStream"}')
        while session.receive()["type"] != "websocket.close":
            pass
    (span,) = spans()
    assert (span.name, span.attributes["speechqc.outcome"]) == ("WEBSOCKET /v1/stream", "ok")


def test_a_failed_request_says_its_code_and_nothing_that_the_client_said(traced):
    client, spans = traced
    client.post("/v1/inspect?profile=secret", content=b"secret")
    client.get("/secret")
    client.post("/v1/inspect", files={"file": ("secret.wav", b"secret")})
    said = " ".join(span.to_json() for span in spans())
    assert "secret" not in said
    assert spans()[2].attributes["error.type"] == "unsupported_format"


@pytest.mark.slow
def test_without_the_setting_no_sdk_is_imported():
    program = (
        "import sys; from speech_qc.app import create_app; from speech_qc.engine import EchoRunner;"
        "from speech_qc.settings import Settings; create_app(Settings(), EchoRunner());"
        "sys.exit(any(name.startswith('opentelemetry.sdk') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_fastapi_makes_no_telemetry_of_its_own(make_client, monkeypatch):
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    chosen = getattr(make_client().app, "_telemetry", {})  # older versions lack it
    assert not any(chosen.get(name) for name in ("tracing", "metrics", "logs", "auto_configure"))


def test_off_makes_no_spans():
    off = make_tracing(Settings().otel)
    assert not off.on
    with off.span("GET", {}):
        tracing.note({"a": 1})
    off.close()


def test_wanted_without_the_extra_stops_the_start(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(SettingsError, match=r"SPEECHQC_OTEL.*speech-qc\[otel\]"):
        make_tracing(True)
