"""The memory of all uploads together is limited: recordings, scores, and responses that clients do not read."""

from __future__ import annotations

import asyncio
from collections import Counter

import httpx
import pytest

from live_server import serving, small_socket
from signals import voice, wav_bytes, white_noise
from speech_qc.admission.memory import MIB, MemoryBudget
from speech_qc.errors import Overloaded, PayloadTooLarge
from speech_qc.server.timeouts import SlowReaderCheck
from waiting import until

MINUTE = wav_bytes(voice(60.0))
"""With frame scores it takes 0.9 MB of memory during inspection, and its response has about 200 KB."""


def post(recording: bytes) -> bytes:
    return b"POST /v1/inspect HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(recording) + recording


def test_each_counts_and_gives_back_what_it_held():
    counts: Counter[str] = Counter()
    held = MemoryBudget(10, lambda: counts.update(["refused"]))
    held.count_unsent(lambda: counts["unsent"])
    with held.reserve() as first, held.reserve() as second:
        first.set(6)
        second.set(4)
        with pytest.raises(Overloaded):
            second.set(5)
        assert (held.bytes, counts["refused"]) == (10, 1)
        first.set(2)
        second.set(8)
        with pytest.raises(PayloadTooLarge, match="SPEECHQC_MAX_HELD_BYTES"):
            second.set(11)
        assert counts["refused"] == 1, "no place would be large enough for it"
    assert held.bytes == 0
    counts["unsent"] = 11
    with pytest.raises(Overloaded), held.reserve():
        pass
    assert counts["refused"] == 2


def test_a_recording_that_is_collected_counts_with_its_bytes(make_client):
    client = make_client(max_held_bytes=MIB)
    noise = white_noise(60.0)
    assert client.post("/v1/inspect?frames=false", content=wav_bytes(noise)).status_code == 200
    refused = client.post("/v1/inspect?frames=false", content=wav_bytes(noise, container="FLAC"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "payload_too_large")
    assert "send WAV, which is not buffered" in refused.json()["error"]["message"]
    assert "speechqc_held_bytes 0.0" in client.get("/metrics").text


@pytest.mark.slow
def test_scores_of_frames_count_and_can_be_left_out(make_client):
    client = make_client(max_held_bytes=MIB)
    long = wav_bytes(voice(90.0))
    refused = client.post("/v1/inspect", content=long)
    assert (refused.status_code, refused.json()["error"]["detail"]) == (413, {"max_held_bytes": MIB})
    assert "frames=false" in refused.json()["error"]["message"]
    assert client.post("/v1/inspect?frames=false", content=long).status_code == 200
    assert client.post("/v1/inspect", content=MINUTE).status_code == 200


def test_answers_that_nobody_takes_leave_less_for_others():
    async def main() -> None:
        async with serving(send_buffer_bytes=4096, max_held_bytes=MIB) as (url, app), httpx.AsyncClient() as web:
            address = url.replace("ws", "http") + "/v1/inspect"
            plain = await small_socket(url)
            reader, writer = await asyncio.open_connection(sock=plain, limit=1024)
            writer.write(post(MINUTE))
            await until(lambda: app.state.parts.memory.unsent_bytes > 150_000, "the answer waits to be taken")
            refused = await web.post(address, content=MINUTE, timeout=30)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
            assert refused.headers["retry-after"] == "5"
            told = app.state.parts.metrics.registry.get_sample_value("speechqc_refusals_total", {"reason": "memory"})
            assert told == 1
            short = wav_bytes(voice(2.0))
            assert (await web.post(address, content=short, timeout=30)).status_code == 200, "what has room is served"

            async with asyncio.timeout(20):
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            writer.close()
            assert (await web.post(address, content=MINUTE, timeout=30)).status_code == 200

    asyncio.run(main())


@pytest.mark.parametrize(
    ("least", "waiting", "stuck"),
    [
        (0, [100] * 12, True),
        (0, [100 + look for look in range(12)], True),
        (0, [100 - look for look in range(12)], False),
        (100, [10_000 - 10 * look for look in range(12)], True),
        (100, [10_000 - 200 * look for look in range(12)], False),
        (100, [0, 100, 0] * 4, False),
        (100, [50_000] * 3 + [0] + [50_000] * 9, False),
        (100, [50_000] * 12, True),
    ],
    ids=["nothing", "grows", "little by little", "too slowly", "fast enough", "all", "begins anew", "nothing at all"],
)
def test_a_client_that_takes_too_little_is_found_by_looks(least, waiting, stuck):
    unread = SlowReaderCheck(10.0, least)
    assert any(unread.is_stuck(size, float(now_s)) for now_s, size in enumerate(waiting)) == stuck


def test_what_is_taken_while_more_is_written_counts():
    unread = SlowReaderCheck(10.0, 100)
    for now_s in range(30):
        unread.add_taken(1000)
        assert not unread.is_stuck(60_000, float(now_s))
