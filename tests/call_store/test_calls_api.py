"""The routes of calls, without a network."""

from __future__ import annotations

import pytest
from store_material import event, value, whole_call

from waiting import block_until


@pytest.fixture
def client(make_client):
    return make_client(results_max_calls=100)


def publish(client, *events):
    results = client.app.state.parts.results
    for one in events:
        results.publish(one)
    block_until(lambda: not results._writer.waiting, "all events are stored")


def code_of(answer):
    return answer.status_code, answer.json()["error"]["code"]


def test_calls_are_listed_in_pages_and_say_whose_they_are(client):
    for number in range(5):
        publish(client, event("call.started", f"c{number}", trunk="a&b"))
    publish(client, event("call.ended", "c0", trunk="a&b", note="done"))

    answer = client.get("/v1/calls").json()
    assert [call["call_id"] for call in answer["calls"]] == ["c4", "c3", "c2", "c1", "c0"]
    assert answer["scope"] == "server" and answer["next"] is None
    first = client.get("/v1/calls", params={"trunk": "a&b", "state": "live", "limit": 3}).json()
    assert [call["call_id"] for call in first["calls"]] == ["c4", "c3", "c2"]
    rest = client.get("/v1/calls", params={"state": "live", "before": first["next"]}).json()
    assert [call["call_id"] for call in rest["calls"]] == ["c1"]
    assert client.get("/v1/calls/c0").json()["note"] == "done"


def test_a_call_with_several_documents_gives_the_newest_and_says_how_to_read_all(client):
    publish(client, *whole_call("a", document_id="first"), event("call.started", "b"))
    assert "documents" not in client.get("/v1/calls/a").json()
    publish(client, event("call.started", "a", document_id="second"))
    newest = client.get("/v1/calls/a").json()
    assert (newest["document_id"], newest["state"], newest["documents"]) == ("second", "live", 2)
    listed = client.get("/v1/calls", params={"call": "a"}).json()["calls"]
    assert [(one["document_id"], one["state"]) for one in listed] == [("second", "live"), ("first", "ended")]
    assert client.delete("/v1/calls/a").status_code == 204
    assert [one["call_id"] for one in client.get("/v1/calls").json()["calls"]] == ["b"]


def test_ids_may_contain_anything_that_fits_into_a_path(client):
    for call_id in ("a/b", "ü & ?=#", "1700000000.12", "x" * 200):
        publish(client, event("call.started", call_id))
        quoted = "".join(f"%{byte:02X}" for byte in call_id.encode())
        assert client.get(f"/v1/calls/{quoted}").json()["call_id"] == call_id
        assert client.delete(f"/v1/calls/{quoted}").status_code == 204
        assert code_of(client.get(f"/v1/calls/{quoted}")) == (404, "not_found")


def test_a_deleted_call_is_gone_from_every_answer(client):
    publish(client, *whole_call("a"), *whole_call("b"))
    assert client.delete("/v1/calls/a").status_code == 204
    assert code_of(client.delete("/v1/calls/a")) == (404, "not_found")
    assert [call["call_id"] for call in client.get("/v1/calls").json()["calls"]] == ["b"]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/v1/calls?state=over", "expected state=live or state=ended, got 'over'"),
        ("/v1/calls?limit=0", "limit of 1 to 200, got 0"),
        ("/v1/calls?limit=201", "limit of 1 to 200, got 201"),
        ("/v1/calls?limit=ten", "whole number as limit, got 'ten'"),
        ("/v1/calls?before=-1", "whole number as before, got '-1'"),
        ("/v1/calls?status=live", "did you mean 'state'?"),
        ("/v1/calls?calls=a", "did you mean 'call'?"),
        ("/v1/calls?state=live&state=ended", "each option once"),
        ("/v1/calls/a?frames=true", "expected no options"),
        ("/v1/watch?calls=a", "did you mean 'call'?"),
    ],
)
def test_wrong_options_are_named(client, path, says):
    answer = client.get(path)
    assert code_of(answer) == (400, "protocol_error")
    assert says in answer.json()["error"]["message"]


def test_a_wrong_last_event_id_is_named(client):
    answer = client.get("/v1/watch", headers={"Last-Event-ID": "first"})
    assert code_of(answer) == (400, "protocol_error") and "Last-Event-ID, got 'first'" in answer.text


def test_events_are_counted_by_closed_labels(client):
    registry = client.app.state.parts.metrics.registry
    publish(client, event("call.started", "a"), event("event.begin", "a", label="one_way_audio"))
    publish(client, event("event.end", "a", label="one_way_audio"), event("event.begin", "a", label="noise"))
    odd = event("call.started", "b")
    object.__setattr__(odd, "vendor", "nobody knows")
    publish(client, odd)
    assert value(registry, "speechqc_calls_total", vendor="twilio") == 1
    assert value(registry, "speechqc_calls_total", vendor="other") == 1
    assert value(registry, "speechqc_interactions_total", kind="one_way_audio") == 1
    assert value(registry, "speechqc_results_connected") == 1


def test_the_application_can_be_started_again(make_client):
    client = make_client()
    publish(client, event("call.started", "a"))
    client.__exit__(None, None, None)
    with client:
        assert client.get("/v1/calls").json()["calls"] == [], "results in memory end with the server"
        publish(client, event("call.started", "b"))
        assert client.get("/v1/calls/b").status_code == 200
