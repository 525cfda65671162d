import asyncio

import numpy as np
import pytest
from jsonschema import validate
from prometheus_client.parser import text_string_to_metric_families

from signals import voice, wav_bytes
from speech_qc.engine import EchoRunner


class FailingRunner(EchoRunner):
    """Fails every step after the warm-up."""

    broken = False

    def run(self, features, state):
        if self.broken:
            raise RuntimeError("the device fell off")
        return super().run(features, state)


def samples_of(client):
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_readiness_names_the_provider(make_client):
    answer = make_client().get("/health/ready")
    assert answer.status_code == 200
    assert answer.json()["status"] == "ready"
    assert answer.json()["provider"] == "EchoProvider"


def test_model_answer_is_what_openapi_declares(make_client):
    client = make_client()
    document = client.get("/openapi.json").json()
    validate(client.get("/v1/model").json(), {"$ref": "#/components/schemas/ModelAnswer", **document})


def test_every_error_that_inspect_can_give_is_in_the_document(make_client):
    document = make_client().get("/openapi.json").json()
    assert {"200", "400", "413", "415", "422", "429", "500", "503", "504"} <= set(
        document["paths"]["/v1/inspect"]["post"]["responses"]
    )


def test_a_failed_step_is_a_500_with_its_own_code_and_the_next_one_may_succeed(make_client):
    runner = FailingRunner()
    client = make_client(runner)
    runner.broken = True
    failed = client.post("/v1/inspect", content=wav_bytes(voice(1.0)))
    runner.broken = False
    assert (failed.status_code, failed.json()["error"]["code"]) == (500, "inference_error")
    assert client.post("/v1/inspect", content=wav_bytes(voice(1.0))).status_code == 200
    assert client.get("/health/ready").status_code == 200


def test_what_nobody_expected_is_counted_as_an_error_of_ours(make_client, monkeypatch):
    async def broken(*_: object) -> None:
        raise RuntimeError("nobody expected this")

    monkeypatch.setattr("speech_qc.api.inspect.open_upload", broken)
    client = make_client()
    answer = client.post("/v1/inspect", content=wav_bytes(voice(1.0)))
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "error")
    samples = samples_of(client)
    assert samples[("speechqc_uploads_total", (("outcome", "error"),))] == 1
    assert samples[("speechqc_uploads_total", (("outcome", "aborted"),))] == 0


def test_every_status_of_a_route_has_a_series_before_it_came(make_client):
    """Otherwise an error rate would be zero at the first errors."""
    names = {labels for name, labels in samples_of(make_client()) if name == "speechqc_http_requests_total"}
    for status in ("200", "422", "500", "503"):
        assert (("route", "/v1/inspect"), ("status", status)) in names
    assert (("route", "/health/ready"), ("status", "503")) in names


def test_a_dead_engine_is_not_ready_and_answers_503(make_client):
    runner = FailingRunner()
    client = make_client(runner, max_step_failures=2)
    runner.broken = True
    for _ in range(2):
        client.post("/v1/inspect", content=wav_bytes(voice(1.0)))
    ready = client.get("/health/ready")
    assert (ready.status_code, ready.json()["status"]) == (503, "dead")
    assert "the device fell off" in ready.json()["reason"]
    refused = client.post("/v1/inspect", content=wav_bytes(voice(1.0)))
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_dead")
    assert refused.headers["retry-after"]
    assert client.get("/health/live").status_code == 200
    assert samples_of(client)[("speechqc_engine_alive", ())] == 0


def test_draining_refuses_new_work_and_is_not_ready(make_client):
    client = make_client(drain_s=0.0)
    engine = client.app.state.parts.engine
    client.portal.call(engine.drain, 0.0)
    assert client.get("/health/ready").json()["status"] == "draining"
    refused = client.post("/v1/inspect", content=wav_bytes(voice(1.0)))
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")


def test_metrics_count_what_happened(make_client):
    client = make_client()
    client.post("/v1/inspect", content=wav_bytes(np.stack([voice(2.0)] * 2, axis=1)))
    client.post("/v1/inspect", content=b"")
    client.get("/no/such/path")
    found = samples_of(client)
    assert found[("speechqc_uploads_total", (("outcome", "ok"),))] == 1
    assert found[("speechqc_uploads_total", (("outcome", "invalid_audio"),))] == 1
    assert found[("speechqc_audio_seconds_total", (("path", "upload"),))] == 4.0
    assert found[("speechqc_frames_scored_total", ())] == 200
    assert found[("speechqc_http_requests_total", (("route", "/v1/inspect"), ("status", "200")))] == 1
    assert found[("speechqc_http_requests_total", (("route", "other"), ("status", "404")))] == 1
    assert found[("speechqc_sessions_active", ())] == 0


def test_the_console_is_served_and_loads_nothing_from_elsewhere(make_client):
    answer = make_client().get("/")
    assert answer.status_code == 200
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "http://" not in answer.text and "https://" not in answer.text


def test_an_upload_that_its_client_gave_up_gives_its_places_back(make_client):
    client = make_client()
    app = client.app

    async def leave() -> None:
        messages = [{"type": "http.request", "body": wav_bytes(voice(1.0))[:20_000], "more_body": True}]

        async def receive():
            return messages.pop(0) if messages else {"type": "http.disconnect"}

        async def send(message):
            pass

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": "/v1/inspect",
            "raw_path": b"/v1/inspect", "root_path": "", "scheme": "http", "query_string": b"", "headers": [],
            "client": ("test", 1), "server": ("test", 80), "app": app,
        }  # fmt: skip
        await asyncio.wait_for(app(scope, receive, send), 10)

    client.portal.call(leave)
    assert app.state.parts.uploads.taken == 0
    assert app.state.parts.engine.status.sessions == 0


def test_startup_fails_with_the_reason_when_the_default_profile_does_not_exist():
    from speech_qc.app import create_app
    from speech_qc.errors import SettingsError
    from speech_qc.settings import Settings

    with pytest.raises(SettingsError, match=r"DEFAULT_PROFILE='radio'.*broadcast"):
        create_app(Settings(default_profile="radio"), EchoRunner())
