"""The wall clock jumps, because of NTP, virtual machines or operators, without an effect on clients."""

from __future__ import annotations

import ast
import asyncio
import itertools
import time
from pathlib import Path

import numpy as np
import orjson
import pytest

from live_server import serving
from signals import voice, wav_bytes
from speech_qc.client.stream import StreamClient
from speech_qc.security.api_keys import KeyRing, make_key, write_keys
from speech_qc.wire.server_messages import Scores
from stream_material import pcm16

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = voice(2.0)
WALL_CLOCKS = {"time", "time_ns", "localtime", "gmtime", "ctime", "now", "utcnow", "today"}
ALLOWED = {
    ("service/speech_qc/security/api_keys.py", "time"),  # token expiry, the same on all servers
    ("service/speech_qc/security/call_signatures.py", "time"),  # a signature says when it was made
    ("service/speech_qc/cli/doctor_checks.py", "gmtime"),  # `doctor` checks that the clock is set
    ("service/speech_qc/call_store/wall_clock.py", "time"),  # retention and claims, compared by other processes
    ("service/speech_qc/calls/registry.py", "time"),  # when a call began; from then on its own monotonic clock
    ("service/speech_qc/archive/rows.py", "now"),  # when a recording was inspected
    ("service/speech_qc/baseline/periods.py", "now"),  # which periods of recordings have ended
    ("service/speech_qc/archive/dest.py", "time_ns"),  # puts the files of one run after those of earlier ones
}


def wall_clocks_of(path: Path) -> set[str]:
    """Find uses of functions of `time` and `datetime` that return the time of day, called or passed on."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in WALL_CLOCKS and isinstance(node.value, ast.Name):
            found |= {node.attr} if node.value.id in ("time", "datetime", "date") else set()
        if isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime"):
            found |= {alias.name for alias in node.names} & WALL_CLOCKS
    return found


def test_only_what_has_to_mean_the_same_elsewhere_reads_the_wall_clock():
    found = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in sorted((ROOT / "service" / "speech_qc").rglob("*.py"))
        for name in wall_clocks_of(path)
    }
    assert found == ALLOWED, "durations and deadlines take time.monotonic, time.perf_counter or loop.time"


class JumpingClock:
    """A clock that jumps years forwards or backwards at every call."""

    def __init__(self) -> None:
        self._jumps = itertools.cycle([0.0, 3e8, -3e8, 1e9, -1e9])
        self._true = time.time
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return self._true() + next(self._jumps)


async def heard(url: str) -> tuple[np.ndarray, float, float]:
    """Return the scores of a stream with a pause, and the reported durations of the stream and of a recording."""
    async with StreamClient.connect(url, labels=["speech", "noise"]) as stream:
        audio = pcm16(SAMPLES)
        for start in range(0, len(audio), 3200):
            await stream.send(audio[start : start + 3200])
            await asyncio.sleep(0.01)
        await stream.keep_alive()
        summary = await stream.close()
        columns: dict[str, list[float | None]] = {"speech": [], "noise": []}
        following = 0
        async for message in stream:
            if isinstance(message, Scores):
                assert message.first_frame == following, "scores must be gapless"
                for label, column in message.channels[0].frames.items():
                    columns[label] += column
                following = len(columns["speech"])
        return np.array(list(columns.values()), float), summary.duration_s, summary.timing.total_s


async def inspected(url: str) -> dict:
    sound = wav_bytes(SAMPLES)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
    head = b"POST /v1/inspect HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(sound)
    for start in range(0, len(sound), 16_000):
        writer.write((head if start == 0 else b"") + sound[start : start + 16_000])
        await asyncio.sleep(0.01)
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200 "), answer[:300]
    return dict(orjson.loads(answer.partition(b"\r\n\r\n")[2]))


def test_a_stream_and_an_upload_are_served_as_ever_while_the_clock_jumps(monkeypatch):
    async def main() -> None:
        clock = JumpingClock()
        async with serving(stream_idle_s=30, upload_idle_s=30, upload_min_bytes_per_s=1) as (
            url,
            app,
        ):
            before, _, _ = await heard(url)
            monkeypatch.setattr(time, "time", clock)
            scores, duration_s, total_s = await heard(url)
            answer = await inspected(url)
            assert clock.looks, "something asked for the time of day, so that it could have been taken in"
        assert np.array_equal(scores, before)
        assert scores.shape == (2, 100) and duration_s == 2.0
        for seconds in (total_s, *answer["timing"].values()):
            assert 0 <= seconds < 60
        registry = app.state.parts.metrics.registry
        assert 0 <= registry.get_sample_value("speechqc_stream_lag_seconds_sum") < 60
        assert 0 <= registry.get_sample_value("speechqc_queue_duration_seconds_sum", {"lane": "live"}) < 60
        assert registry.get_sample_value("speechqc_streams_ended_total", {"outcome": "ok"}) == 2

    asyncio.run(main())


def test_a_key_that_is_removed_is_refused_although_the_clock_went_back(tmp_path):
    (text, kept), (_, other) = make_key("desk"), make_key("other")
    file, now_s = tmp_path / "keys", [1000.0]
    write_keys(file, [kept, other])
    ring = KeyRing(file, token_secret=b"s" * 16, token_s=60, clock=lambda: now_s[0], wall_clock=lambda: 2e9 - now_s[0])
    token = ring.make_token(kept)
    write_keys(file, [other])
    now_s[0] += 2
    with pytest.raises(Exception, match="not one of this server's"):
        ring.check(text)
    with pytest.raises(Exception, match="not one of this server's"):
        ring.check_token(token)
