"""`GET /v1/watch` over a real port: Server-Sent Events that resume, and watchers that are slow, many or gone."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from functools import partial

import httpx
from store_material import event, value, whole_call

from live_server import port_of, serving, small_socket
from speech_qc.call_store import watch
from waiting import until


def http(url, path=""):
    return f"http://127.0.0.1:{port_of(url)}{path}"


class Watching:
    """One watcher, as a client reads it."""

    def __init__(self, response):
        self.response = response
        self.events, self.comments, self.ended = [], 0, False

    async def read(self):
        fields: dict[str, str] = {}
        async for line in self.response.aiter_lines():
            if line.startswith(":"):
                self.comments += 1
            elif line:
                name, _, text = line.partition(": ")
                fields[name] = text
            elif "event" in fields:
                self.events.append((fields.get("id"), fields["event"], json.loads(fields["data"])))
                fields = {}
        self.ended = True

    @property
    def kinds(self):
        return [kind for _, kind, _ in self.events]


@asynccontextmanager
async def watching(url, query="", last=None):
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    async with (
        httpx.AsyncClient(timeout=20) as client,
        client.stream("GET", http(url, f"/v1/watch{query}"), headers=headers) as response,
    ):
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        one = Watching(response)
        reading = asyncio.create_task(one.read())
        await until(lambda: one.comments, "the watch has begun")
        try:
            yield one
        finally:
            reading.cancel()


def test_events_arrive_while_they_happen_filtered_and_with_their_documents():
    async def main():
        async with (
            serving() as (url, app),
            watching(url) as everything,
            watching(url, "?call=b") as of_call,
            watching(url, "?trunk=line-2") as of_trunk,
        ):
            results = app.state.parts.results
            for one in [*whole_call("a"), *whole_call("b"), event("scores", "c", trunk="line-2", channels=[])]:
                results.publish(one)
            await until(lambda: len(everything.events) == 11, "all events arrive")
            assert everything.kinds[:2] == ["call.started", "event.begin"]
            numbers = [int(identity) for identity, _, _ in everything.events]
            assert numbers == sorted(set(numbers))
            assert everything.events[4][2]["data"]["state"] == "ended"
            assert everything.events[0][2]["type"] == "call.started"
            await until(lambda: len(of_call.events) == 5 and len(of_trunk.events) == 1, "so do those of one call")
            assert {body["data"]["call_id"] for _, _, body in of_call.events} == {"b"}
            assert of_trunk.kinds == ["scores"]
            assert value(app.state.parts.metrics.registry, "speechqc_watchers") == 3

    asyncio.run(main())


def test_a_watcher_resumes_after_the_last_event_that_it_has_seen(monkeypatch):
    monkeypatch.setattr(watch, "RECENT", 20)  # the rest comes from the database, in pages
    monkeypatch.setattr(watch, "PAGE", 7)

    async def main():
        async with serving() as (url, app):
            results = app.state.parts.results
            async with watching(url) as first:
                results.publish(event("call.started", "a"))
                await until(lambda: first.events, "the first event arrives")
                last = first.events[-1][0]
            for number in range(100):
                results.publish(event("event.begin", f"c{number % 3}", number=number))
            await until(lambda: not results._writer.waiting, "they are stored")
            async with watching(url, last=last) as again, watching(url, "?call=c1", last=last) as filtered:
                results.publish(event("event.begin", "c1", number=100))
                await until(lambda: len(again.events) == 101, "what was missed arrives, and what is new")
                assert [body["data"]["number"] for _, _, body in again.events] == list(range(101))
                wanted = [*range(1, 100, 3), 100]
                await until(lambda: len(filtered.events) == len(wanted), "so does that of one call")
                assert [body["data"]["number"] for _, _, body in filtered.events] == wanted

    asyncio.run(main())


def complete(one, count):
    return len(one.events) == count


def test_a_watcher_is_told_when_events_in_between_are_no_longer_kept():
    async def main():
        async with serving(results_max_events=100) as (url, app):
            results = app.state.parts.results
            for number in range(10):
                results.publish(event("event.begin", "a", number=number))
            await until(lambda: not results._writer.waiting, "they are stored")
            for last in (1, 10**15):  # of an earlier run of the server, and of none
                async with watching(url, last=last) as one:
                    await until(partial(complete, one, 11), "all that is kept arrives")
                    identity, kind, body = one.events[0]
                    assert (identity, kind) == (None, "missed") and body["data"]["after"] == last

    asyncio.run(main())


def test_a_deleted_call_is_not_replayed_from_memory():
    async def main():
        async with serving() as (url, app), watching(url) as first, httpx.AsyncClient() as client:
            for one in [*whole_call("a"), *whole_call("b")]:
                app.state.parts.results.publish(one)
            await until(lambda: len(first.events) == 10, "all events arrive")
            answer = await client.delete(http(url, "/v1/calls/a"))
            assert answer.status_code == 204
            async with watching(url, last=int(first.events[0][0]) - 1) as again:
                await until(lambda: len(again.events) >= 6, "those of the other call arrive")
                assert again.kinds[0] == "missed"
                assert {body["data"]["call_id"] for _, _, body in again.events[1:]} == {"b"}
                assert again.response.headers["x-results-scope"] == "server"

    asyncio.run(main())


def test_silence_is_bridged_by_comments(monkeypatch):
    monkeypatch.setattr(watch, "KEEP_ALIVE_S", 0.1)

    async def main():
        async with serving() as (url, _), watching(url) as one:
            await until(lambda: one.comments > 4, "comments arrive")
            assert not one.events

    asyncio.run(main())


def test_too_many_watchers_are_refused_and_a_place_is_free_when_one_leaves():
    async def main():
        async with serving(max_watchers=2) as (url, app), httpx.AsyncClient() as client:
            async with watching(url), watching(url):
                answer = await client.get(http(url, "/v1/watch"))
                assert answer.status_code == 429 and answer.json()["error"]["code"] == "overloaded"
                assert "SPEECHQC_MAX_WATCHERS" in answer.text and answer.headers["retry-after"]
            await until(lambda: app.state.parts.results.watchers.count == 0, "places of clients that left are free")
            async with watching(url):
                pass

    asyncio.run(main())


def test_a_watcher_that_does_not_read_delays_nobody_and_holds_no_memory():
    async def main():
        async with serving(send_buffer_bytes=4096, read_timeout_s=0.5, results_max_events=100_000) as (url, app):
            results = app.state.parts.results
            stuck = await small_socket(url)
            request = b"GET /v1/watch HTTP/1.1\r\nHost: x\r\n\r\n"
            await asyncio.get_running_loop().sock_sendall(stuck, request)
            await until(lambda: results.watchers.count == 1, "it watches")
            async with watching(url) as reader:
                for number in range(3000):
                    results.publish(event("event.begin", "a", number=number, filler="x" * 500))
                    if number % 500 == 0:
                        await asyncio.sleep(0.05)
                await until(lambda: len(reader.events) == 3000, "the other one gets everything", patience_s=30)
                assert len(results.watchers._recent) <= watch.RECENT
                await until(lambda: results.watchers.count == 1, "the stuck one was disconnected", patience_s=20)
            stuck.close()

    asyncio.run(main())


def test_a_shutdown_ends_watches_after_the_last_event_and_does_not_wait_for_them():
    async def main():
        async with serving(drain_s=30) as (url, app), asyncio.timeout(15):
            one_open = watching(url)
            one = await one_open.__aenter__()
            app.state.parts.results.publish(event("call.started", "a"))
            await until(lambda: one.events, "the watch works")
            app.state.parts.results.publish(event("call.ended", "a"))
            app.state.parts.results.publish(event("scores", "b"))
            await app.state.parts.results.end_watching()
            await until(lambda: one.ended, "it has ended")
            assert one.kinds == ["call.started", "call.ended", "scores"]
            await one_open.__aexit__(None, None, None)
            answer = await asyncio.to_thread(httpx.get, http(url, "/v1/watch"))
            assert answer.status_code == 503
        # `serving` waits for the end of the server, within the time-out

    asyncio.run(main())
