"""Measure what storing, watching and delivering events of calls costs, and how late they arrive.

    python benchmarks/bench_results.py [URL …] [--calls 100] [--seconds 20] [--record]

URL is a value of SPEECHQC_RESULTS_URL; memory is always measured. Each call publishes `scores` once a second, of two
legs with 15 labels, and an event every five seconds; `call.ended` has a document of 10 kB. One watcher follows all of
it, and one receiver on this machine takes webhooks of all but `scores`. The events are those of a server with so many
calls, at the same pace; the CPU is that of this process, the receiver included, less that of the same time without
events.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson
from recording import machine, markdown, record

from speech_qc.call_store import Results
from speech_qc.call_store.watch import Filter
from speech_qc.calls.events import CallEvent, CallEventKind
from speech_qc.settings import Settings
from speech_qc.telemetry.metrics import Metrics
from speech_qc.webhooks import WebhookConfig, WebhookSender

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
LABELS = [f"label_{number}" for number in range(15)]
DOCUMENT = {"state": "ended", "legs": [{"leg": leg, "filler": "x" * 5000} for leg in ("agent", "customer")]}


def scores() -> dict[str, Any]:
    """Data of a `scores` event."""
    return {"time_s": 1.0, "legs": {leg: dict.fromkeys(LABELS, 0.1234) for leg in ("agent", "customer")}}


def events_of_second(second: int, calls: int) -> Iterator[tuple[CallEventKind, int, dict[str, Any]]]:
    """Kind, call and data of the events of one second."""
    for call in range(calls):
        yield "scores", call, scores()
        if (second + call) % 5 == 0:
            yield "event.begin", call, {"label": "noise", "onset_s": 1.0}


class Receiver:
    """Notes when webhooks arrive."""

    def __init__(self) -> None:
        self.delays_ms: list[float] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # its header and body are separate writes

            def do_POST(self) -> None:
                body = orjson.loads(self.rfile.read(int(self.headers["content-length"])))
                receiver.delays_ms.append(1000 * (time.perf_counter() - body["data"]["sent_s"]))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()


async def measure(url: str | None, calls: int, seconds: int) -> list[str]:
    """Return a row of the table for one database."""
    receiver, metrics = Receiver(), Metrics()
    options: dict[str, Any] = {"results_url": url, "webhook_urls": receiver.url, "webhook_secret": SECRET}
    settings = Settings(**options, results_max_calls=100_000, results_max_events=1_000_000)
    config = WebhookConfig.of(settings)
    results = Results(settings, config.subscription, metrics)
    sender = WebhookSender(results.database, config, metrics)
    results.on_deliveries(sender.wake)
    results.start()
    await results.wait_prepared()
    sender.start()
    seen_ms: list[float] = []

    async def watch() -> None:
        async with results.watch(Filter(), None) as events:
            async for one in events:
                line = one.partition(b"data: ")[2]
                if line:
                    seen_ms.append(1000 * (time.perf_counter() - orjson.loads(line)["data"]["sent_s"]))

    watching = asyncio.create_task(watch())
    await asyncio.sleep(1.0)
    idle_s = -time.process_time()
    await asyncio.sleep(3.0)
    idle_s = (idle_s + time.process_time()) / 3
    publish_us, cpu_s, count, began_s = [], time.process_time(), 0, time.perf_counter()
    for second in range(seconds):
        planned = list(events_of_second(second, calls))
        for number, (kind, call, data) in enumerate(planned):
            late_s = began_s + second + number / len(planned) - time.perf_counter()
            if late_s > 0:
                await asyncio.sleep(late_s)
            data["sent_s"] = time.perf_counter()
            event = CallEvent(kind, f"call-{call}", "twilio", "line", datetime.now(UTC), data, document_id=f"d{call}")
            before_s = time.perf_counter()
            results.publish(event)
            publish_us.append(1e6 * (time.perf_counter() - before_s))
            count += 1
    cpu_ms = 1000 * (time.process_time() - cpu_s - idle_s * (time.perf_counter() - began_s)) / seconds
    for call in range(calls):
        data = DOCUMENT | {"sent_s": time.perf_counter()}
        now = datetime.now(UTC)
        results.publish(CallEvent("call.ended", f"call-{call}", "twilio", "line", now, data, document_id=f"d{call}"))
    hooks = calls + sum(kind != "scores" for second in range(seconds) for kind, _, _ in events_of_second(second, calls))
    for _ in range(2400):
        if len(receiver.delays_ms) >= hooks and len(seen_ms) >= count + calls:
            break
        await asyncio.sleep(0.05)
    else:
        raise SystemExit("events did not arrive within two minutes")
    watching.cancel()
    await asyncio.to_thread(results.finish, 5.0)
    await asyncio.to_thread(sender.close, 1.0)
    results.close()
    receiver.close()
    name = "memory" if url is None else url.partition(":")[0]
    spread = [figure for delays in (seen_ms, receiver.delays_ms) for figure in figures(delays)]
    return [name, f"{statistics.median(publish_us):.1f}", f"{cpu_ms:.0f}", *spread]


def figures(values: list[float]) -> tuple[str, str]:
    """Return the median and the 99th percentile."""
    return f"{statistics.median(values):.0f}", f"{statistics.quantiles(values, n=100)[98]:.0f}"


HEADINGS = ["database", "publish µs", "CPU ms a second", "watcher ms p50", "p99", "webhook ms p50", "p99"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("urls", nargs="*", metavar="URL")
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--record", action="store_true", help="append to RESULTS.md")
    given = parser.parse_args()
    about = machine()
    rows = [asyncio.run(measure(url, given.calls, given.seconds)) for url in (None, *given.urls)]
    table = markdown(HEADINGS, rows)
    print(f"{about}\n\n{table}")
    if given.record:
        places = {url: f"{url.partition(':')[0]}://…" for url in given.urls}
        record("results of calls", about, table, places)


if __name__ == "__main__":
    main()
