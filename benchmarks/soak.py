"""Soak test: streams that start and end, uploads, and hostile clients, at a share of the machine's capacity.

    python benchmarks/soak.py --minutes 60 --streams 60 [--record]

Starts a server, or uses the one given by --url and --pid, with the key of --api-key-file or SPEECHQC_API_KEY if it
requires one. Once a minute it prints what must not grow (resident memory, threads, descriptors, places), and at the end
what was lost. The exit code is 1 if anything leaked or a frame was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import struct
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
from recording import machine, markdown, record
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from speech_qc.capacity.host import started_server
from speech_qc.client.credentials import bearer, find_api_key

MESSAGE_S, FRAME_S, RATE_HZ = 0.1, 0.02, 16_000
STREAM_S = (5.0, 60.0)
"""Minimum and maximum length of a stream."""
MOST_GROWTH = 0.05
"""Maximum growth of resident memory after the first quarter."""


@dataclass
class Tally:
    """Counts of all clients' results."""

    streams: int = 0
    frames: int = 0
    lost_frames: int = 0
    uploads: int = 0
    refused: int = 0
    hostile: int = 0
    failures: list[str] = field(default_factory=list)

    def fail(self, what: str) -> None:
        """Record a failure and print it immediately."""
        self.failures.append(what)
        sys.stdout.write(f"failure: {what}\n")
        sys.stdout.flush()

    def line(self) -> str:
        """Return the counts as text."""
        return (
            f"streams {self.streams}, frames {self.frames}, lost {self.lost_frames}, uploads {self.uploads}, "
            f"refused {self.refused}, hostile {self.hostile}, failures {len(self.failures)}"
        )


@dataclass(frozen=True)
class Sample:
    """The state of the server at one time."""

    rss_mib: float
    threads: int
    descriptors: int
    tasks: int
    places: int


def audio(seconds: float, seed: int) -> bytes:
    """Generate noise modulated like syllables, 16-bit."""
    rng = np.random.default_rng(seed)
    count = round(seconds * RATE_HZ)
    shape = np.clip(np.sin(2 * np.pi * 3 * np.arange(count) / RATE_HZ) + 0.3, 0, 1)
    return bytes((rng.standard_normal(count) * shape * 2000).astype("<i2").tobytes())


def wav(samples: bytes) -> bytes:
    """Encode 16-bit samples as a WAV file."""
    form = struct.pack("<HHIIHH", 1, 1, RATE_HZ, 2 * RATE_HZ, 2, 16)
    head = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(samples))
    return b"RIFF" + struct.pack("<I", len(head) + len(samples)) + head + samples


async def send_paced(link: ClientConnection, sound: bytes, messages: int) -> None:
    """Send a number of messages in real time, looping over a sound."""
    size = round(MESSAGE_S * RATE_HZ) * 2
    begun = time.monotonic()
    for number in range(messages):
        start = number * size % (len(sound) - size)
        await link.send(sound[start : start + size])
        await asyncio.sleep(max(0.0, begun + (number + 1) * MESSAGE_S - time.monotonic()))


async def one_stream(url: str, api_key: str | None, tally: Tally, rng: random.Random, sound: bytes) -> None:
    """Run a paced stream to its end; every frame must be scored."""
    messages = round(rng.uniform(*STREAM_S) / MESSAGE_S)
    following = 0
    key = bearer(api_key)
    async with connect(f"{url}/v1/stream", compression=None, max_size=2**24, additional_headers=key) as link:

        async def send() -> None:
            await send_paced(link, sound, messages)
            await link.send('{"type":"CloseStream"}')

        sending = asyncio.create_task(send())
        summary = None
        try:
            async for text in link:
                message = json.loads(text)
                if message["type"] == "scores":
                    if message["first_frame"] != following:
                        tally.lost_frames += abs(message["first_frame"] - following)
                    following = message["first_frame"] + len(message["channels"][0]["frames"]["speech"])
                elif message["type"] == "summary":
                    summary = message
                elif message["type"] == "error":
                    if message["error"]["code"] == "overloaded":
                        tally.refused += 1
                        return
                    tally.fail(message["error"]["message"])
        finally:
            sending.cancel()
            await asyncio.wait({sending})
    expected = round(messages * MESSAGE_S / FRAME_S)
    tally.streams += 1
    tally.frames += following
    if summary is None:
        tally.fail("a stream ended without a summary")
    tally.lost_frames += abs(expected - following)


async def keep_streaming(
    url: str, api_key: str | None, tally: Tally, rng: random.Random, sound: bytes, end_s: float
) -> None:
    """Run one stream after another."""
    await asyncio.sleep(rng.uniform(0, 5))
    while time.monotonic() < end_s:
        try:
            await one_stream(url, api_key, tally, rng, sound)
        except (ConnectionClosed, InvalidHandshake, OSError, TimeoutError) as error:
            tally.fail(f"stream: {error!r}")
            await asyncio.sleep(1)


async def keep_uploading(
    url: str, api_key: str | None, tally: Tally, rng: random.Random, end_s: float, every_s: float
) -> None:
    """Upload one recording after another, with pauses."""
    async with httpx.AsyncClient(timeout=120, headers=bearer(api_key)) as web:
        while time.monotonic() < end_s:
            body = wav(audio(rng.uniform(1, 60), rng.randrange(1000)))
            try:
                answer = await web.post(f"{url.replace('ws', 'http', 1)}/v1/inspect", content=body)
            except httpx.HTTPError as error:
                tally.fail(f"upload: {error!r}")
            else:
                tally.uploads += answer.status_code == 200
                tally.refused += answer.status_code == 429
                if answer.status_code not in (200, 429):
                    tally.fail(f"upload: {answer.status_code} {answer.text[:200]}")
            await asyncio.sleep(rng.uniform(0, 2 * every_s))


async def keep_attacking(
    url: str, api_key: str | None, tally: Tally, rng: random.Random, sound: bytes, end_s: float
) -> None:
    """Send malformed bodies, disconnect early, stay silent, send garbage; the responses do not matter."""
    port = int(url.rsplit(":", 1)[1])
    good = wav(sound[:64_000])
    # With a key if the server requires one, because otherwise everything would be rejected on arrival.
    host = b"Host: x\r\n" + "".join(f"{name}: {value}\r\n" for name, value in bearer(api_key).items()).encode()
    upload = b"POST /v1/inspect HTTP/1.1\r\n" + host
    upgrade = (
        b"GET /v1/stream HTTP/1.1\r\n" + host + b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    while time.monotonic() < end_s:
        with suppress(OSError, TimeoutError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            attack = rng.randrange(6)
            if attack == 0:
                writer.write(rng.randbytes(rng.randrange(1, 5000)))
            elif attack == 1:  # an upload whose client disconnects
                writer.write(upload + b"Content-Length: 90000\r\n\r\n" + good[:20_000])
            elif attack == 2:  # a corrupted recording
                body = bytearray(good)
                for _ in range(20):
                    body[rng.randrange(200)] = rng.randrange(256)
                writer.write(upload + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            elif attack == 3:  # half a WebSocket message
                writer.write(upgrade + b"\x82\xfe\x3e\x80" + bytes(4) + bytes(rng.randrange(8000)))
            elif attack == 4:  # garbage after the handshake
                writer.write(upgrade + rng.randbytes(400))
            # 5 sends nothing
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1 << 16), rng.uniform(0.1, 3))
            if rng.random() < 0.5:
                writer.transport.abort()
            writer.close()
            tally.hostile += 1
        await asyncio.sleep(rng.uniform(0, 1))


async def look(pid: int, url: str, api_key: str | None) -> Sample:
    """Sample the server's state from the system and the server's metrics."""
    status = await asyncio.to_thread(Path(f"/proc/{pid}/status").read_text)
    facts = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    async with httpx.AsyncClient(timeout=30, headers=bearer(api_key)) as web:
        text = (await web.get(f"{url.replace('ws', 'http', 1)}/metrics")).raise_for_status().text
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return Sample(
        rss_mib=int(facts["VmRSS"].split()[0]) / 1024,
        threads=int(facts["Threads"]),
        descriptors=len(os.listdir(f"/proc/{pid}/fd")),
        tasks=int(float(figures["speechqc_tasks"])),
        places=int(float(figures["speechqc_sessions_active"])),
    )


async def soak(url: str, pid: int, api_key: str | None, options: argparse.Namespace) -> int:
    """Run all clients, sample the server periodically, and print the verdict."""
    tally, sound, samples = Tally(), audio(30, 1), []
    begun = time.monotonic()
    end_s = begun + 60 * options.minutes
    seed = random.Random(options.seed)

    def rng() -> random.Random:
        return random.Random(seed.random())

    tasks = [keep_streaming(url, api_key, tally, rng(), sound, end_s) for _ in range(options.streams)]
    tasks += [keep_uploading(url, api_key, tally, rng(), end_s, 5.0) for _ in range(options.uploaders)]
    tasks += [keep_attacking(url, api_key, tally, rng(), sound, end_s) for _ in range(options.hostile)]
    clients = asyncio.gather(*tasks)
    while not clients.done():
        await asyncio.wait({clients}, timeout=min(60.0, 3 * options.minutes))
        sample = await look(pid, url, api_key)
        samples.append(sample)
        minutes = (time.monotonic() - begun) / 60
        print(f"{minutes:6.1f} min  {sample.rss_mib:7.1f} MiB  {sample.threads:3} threads  "
              f"{sample.descriptors:4} descriptors  {sample.tasks:4} tasks  {sample.places:4} places  "
              f"{tally.line()}", flush=True)  # fmt: skip
    clients.result()
    await asyncio.sleep(options.settle_s)
    last = await look(pid, url, api_key)
    quarter = min(len(samples) // 4, len(samples) - 1)
    first = samples[quarter]
    most = max([*samples[quarter:], last], key=lambda sample: sample.rss_mib)
    growth = most.rss_mib / first.rss_mib - 1
    wrong = [f"{len(tally.failures)} failures, the first: {tally.failures[0]}"] if tally.failures else []
    wrong += [f"{tally.lost_frames} frames were lost"] if tally.lost_frames else []
    wrong += [f"{last.places} places are still taken"] if last.places else []
    wrong += [f"memory grew by {100 * growth:.1f} %"] if growth > MOST_GROWTH else []
    if last.threads > first.threads + 2:
        wrong.append(f"threads grew from {first.threads} to {last.threads}")
    spare = 5  # a connection of this program or of a scrape may still be open
    for name in ("descriptors", "tasks"):
        before, now = getattr(options.idle, name), getattr(last, name)
        if now > before + spare:
            wrong.append(f"{now} {name} at the end, {before} at the start")
    print(f"end: {last}; memory at most {100 * growth:+.1f} % after the first quarter; {tally.line()}")
    verdict = "; ".join(wrong) or "nothing leaked, nothing lost"
    print(verdict)
    if options.record:
        places = {str(options.api_key_file): "KEYFILE"} if options.api_key_file else {}
        record(
            "soak",
            options.about,
            report((options.idle, first, most, samples[-1], last), growth, tally, verdict, options),
            places,
        )
    return 1 if wrong else 0


def report(looks: tuple[Sample, ...], growth: float, tally: Tally, verdict: str, options: argparse.Namespace) -> str:
    """Return the recorded text: the server at five times, and all clients' results."""
    names = ("before", "after a quarter", "maximum since", "last under load", "idle")
    rows = [
        (
            name, f"{look.rss_mib:.1f} MiB", str(look.threads), str(look.descriptors), str(look.tasks),
            str(look.places),
        )
        for name, look in zip(names, looks, strict=True)
    ]  # fmt: skip
    table = markdown(("server", "resident memory", "threads", "descriptors", "tasks", "places taken"), rows)
    crowd = (
        f"{options.minutes:g} minutes, {options.streams} concurrent streams that start and end, "
        f"{options.uploaders} uploading clients, {options.hostile} hostile clients."
    )
    end = f"Memory grew by at most {100 * growth:.1f} % after the first quarter; {tally.line()}; {verdict}."
    return f"{crowd}\n\n{table}\n\n{end}"


async def main() -> int:
    """Parse the options, start a server and run the soak test."""
    options_of = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options_of.add_argument("--minutes", type=float, default=60.0)
    options_of.add_argument(
        "--streams", type=int, default=60, help="concurrent; 80 %% of the result of speech-qc capacity"
    )
    options_of.add_argument("--uploaders", type=int, default=2)
    options_of.add_argument("--hostile", type=int, default=4)
    options_of.add_argument("--settle-s", type=float, default=15.0, help="idle time before the last sample")
    options_of.add_argument("--seed", type=int, default=1)
    options_of.add_argument("--url", help="ws://127.0.0.1:port of a running server on this machine")
    options_of.add_argument("--pid", type=int, help="process ID of that server")
    options_of.add_argument("--api-key-file", type=Path, help="file with its key (default: SPEECHQC_API_KEY)")
    options_of.add_argument("--record", action="store_true", help="append the result to benchmarks/RESULTS.md")
    options = options_of.parse_args()
    options.about = machine()
    if options.url:
        try:
            api_key = find_api_key(options.api_key_file)
        except ValueError as error:
            options_of.error(str(error))
        return await measure(options.url, options.pid, api_key, options)
    with started_server(2 * options.streams + 16) as host:
        return await measure(host.url.replace("http", "ws", 1), host.pid, host.api_key, options)


async def measure(url: str, pid: int | None, api_key: str | None, options: argparse.Namespace) -> int:
    """Run the soak test on a server that is ready; return the exit code."""
    if pid is None:
        raise SystemExit("--url requires --pid, the process ID of the server")
    options.idle = await look(pid, url, api_key)
    return await soak(url, pid, api_key, options)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
