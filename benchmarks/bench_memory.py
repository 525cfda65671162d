"""Measure the memory of live streams: of a session alone, and of a whole server per stream.

    python benchmarks/bench_memory.py [--streams 64 128 256] [--seconds 6] [--together 32] [--other OTHER/bin/speech-qc]
                                      [--record]

`sessions`: what the sessions of live streams allocate, without their sockets.

`server`: anonymous memory of a new server of one process, from `/proc/PID/smaps_rollup`, above that of the same server
without streams. `--together` streams at a time send a message of 100 ms and wait for its scores, so no step is larger
and the result does not depend on how busy the machine is. They go on slowly until the server has given back what it no
longer needs. The line through the last two numbers of streams separates what each stream takes from what is fixed. Then
all streams send without waiting for scores, and end; the last two columns are the memory during this overload, and
after `REST_S` without streams.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import soundfile
import soxr
from recording import machine, markdown, record

from speech_qc.capacity.frames import BINARY, TEXT, FrameSocket, client_frame, upgrade_request
from speech_qc.capacity.host import Host, allow_open_files, started_server
from speech_qc.capacity.load import frame_range
from speech_qc.capacity.trial import load_audio
from speech_qc.engine import EchoRunner
from speech_qc.gc_tuning import COLLECT_S
from speech_qc.pipeline.chunk_reader import ChunkReader
from speech_qc.pipeline.session import Session
from speech_qc.pipeline.shared_channels import SharedChannels

SAMPLE = Path(__file__).resolve().parent.parent / "examples" / "sample.wav"
SESSIONS, MEMORY_S = 64, 6
SERVER = (sys.executable, "-P", "-m", "speech_qc")
MESSAGE, FRAME = 1600, 320  # samples at 16 kHz, of a message and of a frame of scores
SLACK = 3 * MESSAGE  # of what was sent: the look-ahead, the rest of a chunk and of a `scores` message
REST_S = COLLECT_S + 2.0
"""Time in which a server gives back what it can."""
ANSWER_S = 60.0  # longest wait for scores


def sessions_table() -> str:
    """Return the memory of a live channel's session, new and after `MEMORY_S` seconds of audio, as Markdown."""
    sample, _ = soundfile.read(SAMPLE, dtype="float32")
    contract = EchoRunner(2).contract
    reader, spec = ChunkReader(contract), contract.features
    hops = 10
    scores = np.zeros((1, hops // spec.hops_per_frame, len(contract.labels)), np.float32)
    rows = []
    for rate_hz in (8_000, 16_000, 48_000):
        audio = soxr.resample(sample, 16_000, rate_hz)
        audio = np.rint(audio[: MEMORY_S * rate_hz] * 2**15) / np.float32(2**15)
        chunks = np.array_split(audio, 10 * MEMORY_S)
        Session(contract, rate_hz)  # fills caches that all sessions share
        tracemalloc.start()
        shared = SharedChannels(contract, reader)
        parts: dict[str, Any] = {"reader": reader, "pool": shared.meters, "rows": shared.rows}
        sessions = [Session(contract, rate_hz, **parts, gaps=True, is_16_bit=True) for _ in range(SESSIONS)]
        new, _ = tracemalloc.get_traced_memory()
        for chunk in chunks:
            for session in sessions:
                session.push(chunk, bounded=True)
                while (samples := session.take(hops)) is not None:
                    session.accept(next(iter(reader(samples[None], scores))))
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        rows.append([f"{rate_hz}", *(f"{size / 1024 / SESSIONS:.0f}" for size in (new, used))])
    return markdown(["rate, Hz", "new session, KiB", f"after {MEMORY_S} s of audio"], rows)


class Client(FrameSocket):
    """A stream that counts its frames.

    Args:
        host: The server.
        arrived: Set with every message.
    """

    def __init__(self, host: Host, arrived: asyncio.Event) -> None:
        self.sent = self.frames = 0
        self.is_ready = False
        self.reason: str | None = None
        self._arrived = arrived
        super().__init__(upgrade_request(f"{host.url}/v1/stream", host.api_key), self._count, self._ended_with)

    def send(self, frame: bytes) -> None:
        """Send a message of `MESSAGE` samples."""
        self.write(frame)
        self.sent += MESSAGE

    @property
    def is_scored(self) -> bool:
        """Whether the frames of what was sent have arrived, or the stream has ended."""
        return self.reason is not None or self.frames * FRAME >= self.sent - SLACK

    def _count(self, text: bytes) -> None:
        self.is_ready = True
        if (frames := frame_range(text)) is not None:
            self.frames = sum(frames)
        self._arrived.set()

    def _ended_with(self, code: int, reason: str) -> None:
        self.reason = f"{code} {reason}"
        self._arrived.set()


async def streamed(host: Host, streams: int, seconds: float, together: int) -> tuple[float, float, float]:
    """Return the memory of a server with so many streams, in an overload, and after both, KiB."""
    audio, arrived = load_audio(), asyncio.Event()
    pieces = [audio[at : at + 2 * MESSAGE] for at in range(0, len(audio) - 2 * MESSAGE + 1, 2 * MESSAGE)]
    messages = [client_frame(BINARY, piece) for piece in pieces]
    loop, clients = asyncio.get_running_loop(), []
    address = urlsplit(host.url)
    name, port = str(address.hostname), int(address.port or 80)
    for _ in range(streams):
        client = Client(host, arrived)
        await loop.create_connection(lambda client=client: client, name, port)  # type: ignore[misc]
        clients.append(client)

    async def until(group: Sequence[Client], done: Callable[[Client], bool]) -> None:
        async with asyncio.timeout(ANSWER_S):
            while not all(done(client) for client in group):
                arrived.clear()
                await arrived.wait()

    await until(clients, lambda client: client.is_ready or client.reason is not None)

    async def rounds(count: int) -> None:
        for turn in range(count):
            for start in range(0, streams, together):
                group = clients[start : start + together]
                for offset, client in enumerate(group):
                    client.send(messages[(turn + 7 * (start + offset)) % len(messages)])
                await until(group, lambda client: client.is_scored)

    await rounds(round(10 * seconds))
    begun_s = loop.time()
    while loop.time() < begun_s + REST_S:
        await rounds(1)
        await asyncio.sleep(1.0)
    ended = [client.reason for client in clients if client.reason is not None]
    if ended:
        raise SystemExit(f"{len(ended)} of {streams} streams ended early: {ended[0]}")
    used = resident(host)
    for client in clients:
        for message in messages[: round(10 * seconds)]:
            client.send(message)
        client.write(client_frame(TEXT, b'{"type":"CloseStream"}'))
    most = used
    while not all(client.reason is not None for client in clients):
        most = max(most, resident(host))
        await asyncio.sleep(0.1)
    await asyncio.sleep(REST_S)
    return used, most, resident(host)


def resident(host: Host) -> float:
    """Return the anonymous memory of the server, KiB; code, which processes share, does not count."""
    lines = Path(f"/proc/{host.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


def server_table(programs: Sequence[tuple[str, Sequence[str]]], options: argparse.Namespace) -> str:
    """Return the memory of servers by the number of streams, as Markdown."""
    rows = []
    for name, program in programs:
        used: dict[int, float] = {}
        for streams in options.streams:
            allow_open_files(streams + 256)
            with started_server(streams, program=program, workers="1", device="cpu") as host:
                idle = resident(host)
                held, most, after = asyncio.run(streamed(host, streams, options.seconds, options.together))
            used[streams] = held - idle
            rows.append([
                name, f"{streams}", f"{idle / 1024:.0f}", f"{used[streams] / streams:.0f}",
                f"{(most - idle) / streams:.0f}", f"{(after - idle) / 1024:.0f}",
            ])  # fmt: skip
        if len(used) > 1:
            (few, less), (many, more) = sorted(used.items())[-2:]
            slope = (more - less) / (many - few)
            rows.append([name, f"each above {few}", "", f"{slope:.0f}", "", ""])
    columns = [
        "checkout", "streams", "idle, MiB", "above idle, KiB per stream", "in an overload, KiB per stream",
        f"above idle {REST_S:g} s after the streams, MiB",
    ]  # fmt: skip
    return markdown(columns, rows)


def main() -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[64, 128, 256], help="numbers of streams")
    parser.add_argument("--seconds", type=float, default=6.0, help="audio that each stream has sent")
    parser.add_argument("--together", type=int, default=32, help="streams that send at the same time")
    parser.add_argument("--other", type=Path, help="compare with the `speech-qc` of another checkout's environment")
    parser.add_argument("--record", action="store_true", help="append the tables to benchmarks/RESULTS.md")
    options = parser.parse_args()
    about = machine()
    programs = [("this", SERVER)] + ([("other", [str(options.other)])] if options.other else [])
    text = f"{sessions_table()}\n\n{server_table(programs, options)}"
    print(text)
    if options.record:
        places = {str(options.other): "OTHER/bin/speech-qc"} if options.other else None
        record("memory of live streams", about, text, places)


if __name__ == "__main__":
    main()
