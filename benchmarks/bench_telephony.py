"""Compare what a phone call's leg costs with what `/v1/stream` costs: µ-law in messages of 20 ms, in real time.

    python benchmarks/bench_telephony.py [--streams 20] [--seconds 10] [--rounds 3] [--record]

One server in a process of its own; by turns, `--streams` streams of each kind for `--seconds`. The figure is the CPU
time of the server process for each second of audio. Twilio sends JSON with base64 audio, Asterisk binary messages.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import soundfile
import soxr
from recording import machine, markdown, record
from websockets.asyncio.client import ClientConnection, connect

from speech_qc.audio.g711 import encode_mulaw
from speech_qc.capacity.host import started_server

MESSAGE_S = 0.02
PACKET = 160
TICKS_HZ = os.sysconf("SC_CLK_TCK")
SAMPLE = Path(__file__).resolve().parent.parent / "examples" / "sample.wav"


def codes(seconds: float) -> bytes:
    """Return the sample as µ-law at 8 kHz, repeated to a length."""
    samples, rate_hz = soundfile.read(SAMPLE, dtype="float32")
    once = encode_mulaw(soxr.resample(samples, rate_hz, 8_000)).tobytes()
    return (once * (1 + int(seconds * 8_000 / len(once))))[: int(seconds * 8_000)]


def stream_messages(audio: bytes, number: int) -> tuple[str, list[bytes | str]]:  # noqa: ARG001
    """Messages of `/v1/stream`."""
    packets: list[bytes | str] = [audio[at : at + PACKET] for at in range(0, len(audio), PACKET)]
    return "/v1/stream?encoding=mulaw&sample_rate=8000", [*packets, '{"type":"CloseStream"}']


def twilio_messages(audio: bytes, number: int) -> tuple[str, list[bytes | str]]:
    """Messages of a fork with one track."""
    media = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
    sid = f"CA{number:032x}"
    start = {"accountSid": "AC0", "callSid": sid, "streamSid": "MZ0", "tracks": ["inbound"], "mediaFormat": media}
    said: list[bytes | str] = [orjson.dumps({"event": "start", "streamSid": "MZ0", "start": start}).decode()]
    for index, at in enumerate(range(0, len(audio), PACKET)):
        payload = base64.b64encode(audio[at : at + PACKET]).decode()
        body = {"track": "inbound", "chunk": str(index + 1), "timestamp": str(20 * index), "payload": payload}
        message = {"event": "media", "sequenceNumber": str(index + 2), "media": body, "streamSid": f"MZ{number:032x}"}
        said.append(orjson.dumps(message).decode())
    return "/v1/telephony/twilio", [*said, '{"event":"stop"}']


def asterisk_messages(audio: bytes, number: int) -> tuple[str, list[bytes | str]]:
    """Messages of chan_websocket; it is the peer that closes."""
    start = (
        f"MEDIA_START connection_id:c{number} channel:x channel_id:{number} format:ulaw optimal_frame_size:160 ptime:20"
    )
    packets: list[bytes | str] = [audio[at : at + PACKET] for at in range(0, len(audio), PACKET)]
    return "/v1/telephony/asterisk", [start, *packets]


KINDS: dict[str, Callable[[bytes, int], tuple[str, list[bytes | str]]]] = {
    "/v1/stream": stream_messages,
    "Twilio": twilio_messages,
    "Asterisk": asterisk_messages,
}


async def _read(socket: ClientConnection) -> None:
    async for _ in socket:
        pass


async def send(url: str, messages: list[bytes | str], start_s: float) -> None:
    """Send one stream in real time, and read what comes back."""
    async with connect(url, compression=None, max_size=None) as socket:
        reading = asyncio.create_task(_read(socket))
        for index, message in enumerate(messages):
            delay_s = start_s + index * MESSAGE_S - time.monotonic()
            if delay_s > 0:
                await asyncio.sleep(delay_s)
            await socket.send(message)
        if not isinstance(messages[-1], str):
            await socket.close()
        await reading


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_HZ


async def measure(url: str, pid: int, kind: str, audio: bytes, streams: int, first: int) -> float:
    """Return the CPU milliseconds of the server for a second of audio."""
    spoken = [KINDS[kind](audio, first + number) for number in range(streams)]
    before_s = cpu_s(pid)
    start_s = time.monotonic() + 0.2
    # Streams begin at different times, as calls do, or the chunks of all would be complete at once.
    await asyncio.gather(
        *(send(url + path, said, start_s + 0.1 * number / streams) for number, (path, said) in enumerate(spoken))
    )
    return 1000 * (cpu_s(pid) - before_s) / (streams * len(audio) / 8_000)


def main() -> None:
    """Measure and print; record if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    about, audio = machine(), codes(options.seconds)
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    # The places of calls that have ended are free a little later than those of streams.
    with started_server(2 * options.streams + 1) as host:
        url = host.url.replace("http://", "ws://")
        assert host.pid is not None  # it was started here
        asyncio.run(measure(url, host.pid, "/v1/stream", audio[:16_000], options.streams, 0))  # warm up
        for turn in range(options.rounds):
            for kind, values in found.items():
                values.append(asyncio.run(measure(url, host.pid, kind, audio, options.streams, (turn + 1) * 1000)))
    ratios = {
        kind: statistics.median(value / own for value, own in zip(values, found["/v1/stream"], strict=True))
        for kind, values in found.items()
    }
    rows = [
        [kind, f"{statistics.median(values):.2f}", " ".join(f"{value:.2f}" for value in values), f"{ratios[kind]:.2f}"]
        for kind, values in found.items()
    ]
    head = ["kind", "CPU ms for a second of audio", "rounds", "relative to /v1/stream"]
    text = f"{options.streams} streams, {options.seconds:g} s a round.\n\n{markdown(head, rows)}"
    print(text)
    if options.record:
        record("A leg of a phone call beside /v1/stream", about, text)


if __name__ == "__main__":
    main()
