"""The dashboard's queries, and load that changes its figures; for tests with Prometheus and the service."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import soundfile

from speech_qc.client.stream import StreamClient, StreamClosed

ROOT = Path(__file__).resolve().parents[1]
BOARD = ROOT / "deploy" / "grafana" / "boards" / "speech-qc.json"
SAMPLE = ROOT / "examples" / "sample.wav"


def panels() -> list[dict[str, Any]]:
    return json.loads(BOARD.read_text(encoding="utf-8"))["panels"]


def expressions(window: str = "20s") -> dict[str, str]:
    """Return every expression as Grafana sends it, by panel title."""
    found = {
        f"{panel['title']}: {target['legendFormat']}": target["expr"]
        for panel in panels()
        for target in panel.get("targets", ())
    }
    return {
        name: text.replace("$__rate_interval", window).replace("$instance", ".*").replace("[15m]", f"[{window}]")
        for name, text in found.items()
    }


async def load(port: int) -> None:
    """Generate a mixed load: uploads, an invalid one, streams, more streams than places, all faster than real time."""
    samples, rate_hz = soundfile.read(SAMPLE, dtype="float32")
    address = f"127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=f"http://{address}", timeout=30) as http:
        for body in (SAMPLE.read_bytes(), SAMPLE.read_bytes(), b"no audio"):
            await http.post("/v1/inspect", content=body)

    async def stream() -> None:
        with suppress(StreamClosed):
            async with StreamClient.connect(f"ws://{address}", sample_rate=rate_hz, encoding="linear16") as one:
                for start in range(0, len(samples), rate_hz // 10):
                    await one.send(samples[start : start + rate_hz // 10])
                await one.close()

    await asyncio.gather(*(stream() for _ in range(6)))


def ask(address: str, expression: str) -> list[dict[str, Any]]:
    answer = httpx.get(f"{address}/api/v1/query", params={"query": expression}).json()
    assert answer["status"] == "success", f"{expression}\n{answer}"
    return answer["data"]["result"]
