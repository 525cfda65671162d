"""Send SIGTERM to a busy server: is all accepted work answered, and how long does the shutdown take?

    python benchmarks/bench_drain.py [--streams 60] [--uploaders 4] [--runs 3] [--record]

Each run starts a server, loads it with paced streams and consecutive uploads, waits until all are in progress, and
sends SIGTERM. An upload counts as accepted once its connection is open; its response may be a refusal (503), but there
must be one. A stream counts as finished if it receives `finalized` and `summary` before close code 1012, and its number
of score frames equals that in the summary. The exit code is 1 if anything was left unanswered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field

import httpx
from recording import machine, markdown, record
from soak import audio, send_paced, wav
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from speech_qc.capacity.host import started_server

LOAD_S = 5.0
"""Time from the start of the load to the signal."""
DRAIN_S = 10
ENDLESS = 10**6
"""Number of messages; the server closes the stream before they are sent."""


@dataclass
class Outcome:
    """Results of one run."""

    uploads: Counter[str] = field(default_factory=Counter)
    finished: int = 0
    wrong: list[str] = field(default_factory=list)
    frames: int = 0
    exit_s: float = 0.0


async def stream(url: str, outcome: Outcome, sound: bytes) -> None:
    """Send in real time until the server closes, and check that everything due was received."""
    kinds: list[str] = []
    frames, said = 0, None
    async with connect(f"{url}/v1/stream", compression=None, max_size=2**24) as link:
        sending = asyncio.create_task(send_paced(link, sound, ENDLESS))
        try:
            while True:
                message = json.loads(await link.recv())
                kinds.append(message["type"])
                if message["type"] == "scores":
                    frames += len(message["channels"][0]["frames"]["speech"])
                elif message["type"] == "summary":
                    said = message["frames"]
        except ConnectionClosed:
            pass
        finally:
            sending.cancel()
            await asyncio.wait({sending})
    outcome.frames += frames
    if link.close_code == 1012 and kinds[-3:] == ["finalized", "summary", "error"] and frames == said:
        outcome.finished += 1
    else:
        outcome.wrong.append(f"stream: close code {link.close_code}, {frames} of {said} frames, last {kinds[-3:]}")


async def upload(url: str, outcome: Outcome, body: bytes) -> None:
    """Upload repeatedly until the server refuses or stops."""
    while True:
        async with httpx.AsyncClient(timeout=2 * DRAIN_S) as web:
            try:
                answer = await web.post(f"{url}/v1/inspect?frames=false", content=body)
            except httpx.ConnectError:
                return
            except httpx.HTTPError as error:
                outcome.wrong.append(f"upload: {error!r}")
                return
        outcome.uploads[str(answer.status_code)] += 1
        if answer.status_code == 503:
            return
        if answer.status_code not in (200, 429):
            outcome.wrong.append(f"upload: {answer.status_code} {answer.text[:200]}")


async def one_run(options: argparse.Namespace) -> Outcome:
    """Start a server, load it, send SIGTERM and wait for the exit."""
    outcome, sound, body = Outcome(), audio(30, 1), wav(audio(20, 2))
    with ExitStack() as stack:
        host = stack.enter_context(started_server(2 * options.streams, drain_s=str(DRAIN_S)))
        url = host.url.replace("http", "ws", 1)
        clients = [stream(url, outcome, sound) for _ in range(options.streams)]
        clients += [upload(host.url, outcome, body) for _ in range(options.uploaders)]
        tasks = [asyncio.create_task(client) for client in clients]
        await asyncio.sleep(LOAD_S)
        begun = time.monotonic()
        await asyncio.to_thread(stack.close)  # sends SIGTERM and waits
        outcome.exit_s = time.monotonic() - begun
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, BaseException):
                outcome.wrong.append(repr(result))
    return outcome


def main() -> int:
    """Run, print the table, and append it to the results with --record."""
    options_of = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options_of.add_argument("--streams", type=int, default=60)
    options_of.add_argument("--uploaders", type=int, default=4)
    options_of.add_argument("--runs", type=int, default=3)
    options_of.add_argument("--record", action="store_true", help="append to benchmarks/RESULTS.md")
    options = options_of.parse_args()
    about = machine()
    outcomes = [asyncio.run(one_run(options)) for _ in range(options.runs)]
    rows = [
        (
            f"{outcome.finished} of {options.streams}",
            str(outcome.frames),
            ", ".join(f"{count} × {status}" for status, count in sorted(outcome.uploads.items())),
            str(len(outcome.wrong)),
            f"{outcome.exit_s:.2f} s",
        )
        for outcome in outcomes
    ]
    headings = (
        "streams finished with their summary",
        "frames",
        "uploads answered",
        "unanswered or cut",
        "signal to exit",
    )
    text = markdown(headings, rows)
    sys.stdout.write(text + "\n")
    wrong = [line for outcome in outcomes for line in outcome.wrong]
    sys.stdout.write("\n".join(wrong[:20]) + "\n" * bool(wrong))
    if options.record:
        record("drain under load", about, text)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
