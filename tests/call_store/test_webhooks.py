"""Webhooks: signed, repeated, in order for each call, by one process at a time."""

from __future__ import annotations

import base64
import re
import secrets
import socket
import statistics
import threading
import time
from collections import Counter
from contextlib import suppress

import pytest
from sqlalchemy import func, select
from standardwebhooks.webhooks import Webhook
from store_material import SECRET, Receiver, event, value, whole_call

from speech_qc.call_store.schema import deliveries
from speech_qc.errors import SettingsError
from speech_qc.settings import Settings
from speech_qc.webhooks import WebhookConfig, outbox, sender
from speech_qc.webhooks.sender import wait_after_s
from speech_qc.webhooks.signing import Signer
from waiting import block_until


def hooks(receiver, url=None, **settings):
    return {"results_url": url, "webhook_urls": receiver.url, "webhook_secret": SECRET} | settings


def sent(stack, outcome):
    return value(stack.metrics.registry, "speechqc_webhooks_total", outcome=outcome)


def left(stack):
    with stack.results.database.reading() as connection:
        return connection.scalar(select(func.count()).select_from(deliveries))


def test_events_arrive_signed_and_in_order(make_stack, receiver, database_url):
    stack = make_stack(**hooks(receiver, database_url))
    for one in [*whole_call("a"), event("scores", "a"), *whole_call("b")]:
        stack.results.publish(one)
    receiver.until(10)
    assert not receiver.invalid
    for call_id in ("a", "b"):
        kinds = [body["type"] for body in receiver.of_call(call_id)]
        assert kinds == ["call.started", *["event.begin"] * 3, "call.ended"], "scores are not chosen"
        assert [body["data"]["number"] for body in receiver.of_call(call_id)[1:4]] == [0, 1, 2]
    _, body = receiver.accepted[0]
    assert set(body) == {"type", "timestamp", "data"}
    assert {"call_id", "vendor", "trunk", "state", "legs"} <= set(body["data"])
    assert receiver.headers[0]["content-type"] == "application/json"
    block_until(lambda: left(stack) == 0, "the outbox is empty")
    block_until(lambda: sent(stack, "delivered") == 10, "all are counted")


def claimed(stack):
    """Until when the only webhook is claimed."""
    with stack.results.database.reading() as connection:
        return connection.scalar(select(deliveries.c.claimed_until_s)) or 0.0


@pytest.mark.slow
def test_a_failed_webhook_is_sent_again_with_the_same_id_and_body(make_stack, receiver, database_url):
    seen: Counter[str] = Counter()

    def answer(document):
        seen[document["type"]] += 1
        return 200 if seen[document["type"]] > 2 else 500

    receiver.answer = answer
    stack = make_stack(**hooks(receiver, database_url))
    stack.results.publish(event("call.started"))
    stack.results.publish(event("call.ended"))
    receiver.until(2, 20)
    assert [body["type"] for _, body in receiver.accepted] == ["call.started", "call.ended"]
    assert seen == {"call.started": 3, "call.ended": 3}
    assert sent(stack, "failed") == 4 and len({identity for identity, _ in receiver.accepted}) == 2


def test_one_call_that_the_receiver_refuses_holds_up_no_other(make_stack, receiver):
    receiver.answer = lambda document: 400 if document["data"]["call_id"] == "bad" else 200
    stack = make_stack(**hooks(receiver))
    for number in range(5):
        stack.results.publish(event("call.started", "bad"))
        for one in whole_call(f"good-{number}"):
            stack.results.publish(one)
    receiver.until(25)
    assert not receiver.of_call("bad")
    assert left(stack) >= 5
    attempts = sent(stack, "failed")
    time.sleep(1.0)
    assert sent(stack, "failed") - attempts <= 2, "it is not tried again with every success of others"


@pytest.mark.slow
def test_each_receiver_gets_its_own_and_one_that_hangs_delays_no_other(make_stack, receiver):
    with_two = Receiver()
    with_two.delay_s = 2.0
    with_two.start()
    try:
        stack = make_stack(**hooks(receiver, webhook_urls=f"{with_two.url}, {receiver.url}", webhook_timeout_s=1))
        for one in whole_call("a"):
            stack.results.publish(one)
        receiver.until(5, 4)
        with_two.delay_s = 0.0
        with_two.until(5, 15)
        assert [body["type"] for body in with_two.of_call("a")] == [body["type"] for body in receiver.of_call("a")]
    finally:
        with_two.stop()


class Dripping:
    """A receiver whose response comes byte by byte, each of them sooner than the limit for the whole."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.open = self.most_open = 0
        self._lock = threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}/"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # it is closed
            while True:
                threading.Thread(target=self._respond, args=(self._server.accept()[0],), daemon=True).start()

    def _respond(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(65_536)
            with self._lock:
                self.requests += re.findall(rb"webhook-id: (\S+)", head)
                self.open += 1
                self.most_open = max(self.most_open, self.open)
            try:
                for byte in b"HTTP/1.1 200 OK\r\n" + b"X-Filler: " + b"x" * 1000:
                    connection.sendall(bytes([byte]))
                    time.sleep(0.05)
            finally:
                with self._lock:
                    self.open -= 1

    def close(self) -> None:
        self._server.close()


def test_an_attempt_has_one_limit_for_all_of_it_and_is_over_before_the_next(make_stack, receiver, monkeypatch):
    monkeypatch.setattr(sender, "LEASE_SPARE_S", 0.4)
    dripping = Dripping()
    stack = make_stack(**hooks(receiver, webhook_urls=dripping.url, webhook_timeout_s=1))
    began_s = time.monotonic()
    stack.results.publish(event("call.started", "a"))
    block_until(lambda: sent(stack, "failed") >= 2, "two attempts have failed", patience_s=20)
    assert time.monotonic() - began_s > 2.0, "each had its time"
    assert dripping.most_open == 1 and len(set(dripping.requests)) == 1
    dripping.close()


def test_a_webhook_that_is_being_sent_is_not_sent_again_when_its_lease_has_ended(make_stack, receiver, monkeypatch):
    """A clock that was set forward ends it early."""
    receiver.delay_s = 1.5
    stack = make_stack(**hooks(receiver, webhook_timeout_s=5))
    stack.results.publish(event("call.started", "a"))
    block_until(lambda: claimed(stack) > time.time(), "it is being sent")
    monkeypatch.setattr(outbox, "now_s", lambda: time.time() + 60)
    stack.results.publish(event("call.started", "b"))
    receiver.until(2)
    block_until(lambda: left(stack) == 0, "both are noted")
    assert [body["data"]["call_id"] for _, body in receiver.accepted] == ["a", "b"]


def test_a_response_whose_body_does_not_end_counts_by_its_status(make_stack, receiver, monkeypatch):
    monkeypatch.setattr(sender, "READ_S", 0.2)
    receiver.answer = lambda _: (200, {"Content-Length": "1000000"})
    stack = make_stack(**hooks(receiver))
    stack.results.publish(event("call.started", "a"))
    block_until(lambda: sent(stack, "delivered") == 1 and left(stack) == 0, "it is delivered")


def test_redirects_are_not_followed_and_gone_gives_up(make_stack, receiver):
    target = Receiver()
    target.start()
    try:
        receiver.answer = lambda _: (302, {"Location": target.url})
        stack = make_stack(**hooks(receiver))
        stack.results.publish(event("call.started", "a"))
        block_until(lambda: sent(stack, "failed") >= 1, "the redirect counts as a failure")
        receiver.answer = 410
        block_until(lambda: sent(stack, "abandoned") == 1, "410 ends the attempts")
        assert left(stack) == 0 and not target.accepted and not target.refused and not target.invalid
    finally:
        target.stop()


def test_retry_after_is_honoured(make_stack, receiver):
    receiver.answer = lambda _: (503, {"Retry-After": "600"})
    stack = make_stack(**hooks(receiver))
    stack.results.publish(event("call.started", "a"))
    block_until(lambda: sent(stack, "failed") == 1, "it failed")
    with stack.results.database.reading() as connection:
        due_s = connection.scalar(select(deliveries.c.due_s))
    assert 590 < due_s - time.time() < 610


def test_a_webhook_is_abandoned_when_its_result_is_no_longer_kept(make_stack, database_url):
    stack = make_stack(**hooks(Receiver(), database_url, results_keep_s=1.0))  # nothing listens there
    stack.results.publish(event("call.started", "a"))
    block_until(lambda: sent(stack, "abandoned") == 1, "it is abandoned and counted")
    assert left(stack) == 0 and sent(stack, "failed") >= 1


def test_several_processes_do_not_send_the_same_twice(make_stack, receiver, tmp_path, database_url):
    url = database_url or f"sqlite:///{tmp_path}/shared.db"
    stacks = [make_stack(**hooks(receiver, url)) for _ in range(3)]
    for number in range(20):
        for one in whole_call(f"c{number}"):
            stacks[number % 3].results.publish(one)
    receiver.until(100, 20)
    time.sleep(0.3)
    assert len(receiver.accepted) == 100
    for number in range(20):
        assert [body["type"] for body in receiver.of_call(f"c{number}")][::4] == ["call.started", "call.ended"]


def test_waits_double_are_spread_and_end_at_five_minutes():
    assert [wait_after_s(attempts, lambda: 0.5) for attempts in (1, 2, 3, 9, 10, 500)] == [1, 2, 4, 256, 300, 300]
    drawn = [wait_after_s(3) for _ in range(500)]
    assert min(drawn) >= 2 and max(drawn) <= 6 and statistics.pstdev(drawn) > 0.5


@pytest.mark.parametrize("size", [24, 32, 64])
def test_the_specifications_own_library_accepts_signatures_of_any_secret(size):
    old, new, wrong = (f"whsec_{base64.b64encode(secrets.token_bytes(size)).decode()}" for _ in range(3))
    body = '{"a": "ü"}'
    headers = Signer.parse(f"{new}, {old}").headers("msg_1", int(time.time()), body.encode())
    for secret in (old, new):
        assert Webhook(secret).verify(body, headers) == {"a": "ü"}
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(wrong).verify(body, headers)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"webhook_urls": "https://a.example/"}, "needs SPEECHQC_WEBHOOK_SECRET"),
        ({"webhook_urls": "https://a.example/", "webhook_secret": "hunter2"}, "does not begin with whsec_"),
        ({"webhook_urls": "https://a.example/", "webhook_secret": "whsec_hunter2!"}, "something else after whsec_"),
        ({"webhook_urls": "https://a.example/", "webhook_secret": "whsec_aHVudGVyMg=="}, "got 7 bytes"),
        ({"webhook_urls": "https://a.example/", "webhook_secret": ","}, "one secret or two, got 0"),
        ({"webhook_urls": "ftp://hunter2/", "webhook_secret": SECRET}, "number 1 is none"),
        ({"webhook_urls": "https://a.example/,https:///hunter2", "webhook_secret": SECRET}, "number 2 is none"),
        ({"webhook_urls": "https://a.example:99999/hunter2", "webhook_secret": SECRET}, "number 1 is none"),
        ({"webhook_urls": "https://me:hunter2@a.example/", "webhook_secret": SECRET}, "user, a password"),
        ({"webhook_events": "call.began"}, "got call.began"),
    ],
)
def test_wrong_settings_stop_the_start_and_are_not_repeated(settings, complaint):
    with pytest.raises(SettingsError) as raised:
        WebhookConfig.of(Settings(**settings))
    assert complaint in raised.value.message
    assert "hunter2" not in raised.value.message


def test_a_scrape_shows_what_is_waiting_and_does_not_ask_the_database(make_stack, monkeypatch):
    monkeypatch.setattr(sender, "COUNT_S", 0.1)
    stack = make_stack(**hooks(Receiver()))  # nothing listens there
    for one in whole_call("a"):
        stack.results.publish(one)
    registry = stack.metrics.registry
    block_until(lambda: value(registry, "speechqc_webhooks_waiting") == 5, "they are counted")
    with monkeypatch.context() as patch:
        patch.setattr(stack.results.database, "reading", None)
        assert value(registry, "speechqc_webhooks_waiting") == 5


@pytest.mark.parametrize("failure", [ValueError("surprise"), MemoryError()])
def test_a_sender_that_meets_a_surprise_goes_on(make_stack, receiver, monkeypatch, failure):
    real, failures = outbox.settle, [failure]

    def settle(*arguments):
        if failures:
            raise failures.pop()
        real(*arguments)

    monkeypatch.setattr(sender, "settle", settle)
    monkeypatch.setattr(sender, "LEASE_SPARE_S", -0.5)  # what could not be noted is soon sent again
    stack = make_stack(**hooks(receiver, webhook_timeout_s=1))
    stack.results.publish(event("call.started", "a"))
    block_until(lambda: len(receiver.accepted) == 2 and left(stack) == 0, "it is sent again, and noted")
    assert len({identity for identity, _ in receiver.accepted}) == 1
