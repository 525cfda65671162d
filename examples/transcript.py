"""Print one second of a conversation with `/v1/stream`, as in docs/protocol.md; uses only what that page describes.

speech-qc serve &
python examples/transcript.py [ws://127.0.0.1:8000]
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import soundfile
import soxr
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from speech_qc.audio.g711 import encode_mulaw

SAMPLE = Path(__file__).with_name("sample.wav")
FIRST_S, SECONDS = 3.0, 1.0
QUERY = "encoding=mulaw&sample_rate=8000&emit_ms=200&labels=speech,noise,snr_db&session_name=line-7"
MESSAGE_BYTES = 160  # 20 ms


def audio() -> bytes:
    """Return one second of the sample, encoded as telephone audio."""
    samples, rate = soundfile.read(SAMPLE, dtype="float32", start=int(FIRST_S * 16_000), frames=int(SECONDS * 16_000))
    return encode_mulaw(soxr.resample(samples, rate, 8_000)).tobytes()


async def send_audio(socket: ClientConnection, sound: bytes) -> None:
    """Send audio in real time; print one line at the end."""
    count = 0
    for start in range(0, len(sound), MESSAGE_BYTES):
        await socket.send(sound[start : start + MESSAGE_BYTES])
        count += 1
        await asyncio.sleep(0.02)
    print(f"> (binary) {count} messages of {MESSAGE_BYTES} bytes")


async def send_text(socket: ClientConnection, message: dict[str, object]) -> None:
    """Send a text message."""
    text = json.dumps(message, separators=(",", ":"))
    print(f"> {text}")
    await socket.send(text)


async def main(server: str) -> None:
    """Run the conversation."""
    print(f"> (connect) GET /v1/stream?{QUERY}")
    answered = {name: asyncio.Event() for name in ("ready", "finalized", "error", "configured")}
    async with connect(f"{server}/v1/stream?{QUERY}") as socket:

        async def listen() -> None:
            try:
                async for text in socket:
                    assert isinstance(text, str), "the server sends no binary messages"
                    print(f"< {text}")
                    event = answered.get(json.loads(text)["type"])
                    if event is not None:
                        event.set()
            except ConnectionClosed:
                pass

        listening = asyncio.create_task(listen())
        sound = audio()
        cut = 30 * MESSAGE_BYTES
        await answered["ready"].wait()
        await send_audio(socket, sound[:cut])
        await send_text(socket, {"type": "Finalize"})
        await answered["finalized"].wait()
        await send_text(socket, {"type": "Flush"})  # no such message
        await answered["error"].wait()
        await send_text(socket, {"type": "Configure", "labels": ["noise"], "emit_ms": 100})
        await answered["configured"].wait()
        await send_audio(socket, sound[cut:])
        await send_text(socket, {"type": "KeepAlive"})
        await send_text(socket, {"type": "CloseStream"})
        await listening
        print(f"< (close) {socket.close_code} {socket.close_reason!r}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8000"))
