"""The same audio gets the same result: as a file or live, however it is split, alone or with other streams.

Frames are compared to 1e-4, everything else exactly. The tests use the echo model, whose scores repeat its input, and
the shipped model.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient
from websockets.asyncio.client import connect

from closeness import TOLERANCE, assert_close
from signals import voice, wav_bytes, white_noise
from speech_qc.audio.g711 import encode_alaw, encode_mulaw
from speech_qc.capacity.host import allow_open_files
from speech_qc.client.stream import StreamClient
from speech_qc.engine import EchoRunner, OnnxRunner, Runner
from speech_qc.settings import default_model_path


@pytest.fixture(params=["echo", pytest.param("shipped", marks=pytest.mark.slow)])
def runner(request: pytest.FixtureRequest) -> Runner:
    if request.param == "shipped":
        if not default_model_path().is_file():
            pytest.skip(f"no model at {default_model_path()}")
        shipped: OnnxRunner = request.getfixturevalue("shipped_runner")
        return shipped
    return EchoRunner(lookahead_frames=2)


def call(seconds: float, rate_hz: int = 16_000, seed: int = 0) -> np.ndarray:
    """Generate a disturbed telephone call: speech over noise, a loud part, a gap of digital zeros, an abrupt end."""
    samples = voice(seconds, rate_hz=rate_hz, seed=seed) + white_noise(
        seconds, level_dbfs=-48, rate_hz=rate_hz, seed=seed
    )
    count = len(samples)
    noise = white_noise(seconds / 4, level_dbfs=-16, rate_hz=rate_hz, seed=seed + 1)
    samples[count // 2 : count // 2 + len(noise)] += noise
    samples[count // 5 : count // 5 + rate_hz // 10] = 0.0
    return samples.clip(-1, 1).astype(np.float32)


def as_pcm16(samples: np.ndarray) -> bytes:
    return (samples * 32767).astype("<i2").tobytes()


def wav_of(samples: np.ndarray, rate_hz: int = 16_000) -> bytes:
    """Return the exact integers that `as_pcm16` sends."""
    return wav_bytes((samples * 32767).astype("<i2"), rate_hz)


def inspected(client: TestClient, audio: bytes) -> dict[str, Any]:
    answer = client.post("/v1/inspect", content=audio)
    assert answer.status_code == 200
    body: dict[str, Any] = answer.json()
    return body


def streamed(client: TestClient, messages: Sequence[bytes], query: str = "") -> list[dict[str, Any]]:
    """All messages that a stream receives."""
    told: list[dict[str, Any]] = []
    with client.websocket_connect(f"/v1/stream{query}") as session:
        for piece in messages:
            session.send_bytes(piece)
        session.send_text('{"type":"CloseStream"}')
        while True:
            message = session.receive()
            if message["type"] == "websocket.close":
                assert message["code"] == 1000
                return told
            told.append(json.loads(message["text"]))


def cut(audio: bytes, size: int) -> list[bytes]:
    return [audio[start : start + size] for start in range(0, len(audio), size)]


def cut_at_random(audio: bytes, seed: int) -> list[bytes]:
    rng = np.random.default_rng(seed)
    edges = [0]
    while edges[-1] < len(audio):
        edges.append(edges[-1] + int(rng.choice([1, 3, 333, 641, 3201, 20_001])))
    return [audio[a:b] for a, b in pairwise(edges)]


def assert_same_answer(told: list[dict[str, Any]], body: dict[str, Any]) -> None:
    """Compare a conversation with the file's result, channel by channel."""
    summary = told[-1]
    assert summary["type"] == "summary"
    assert summary["frames"] == body["audio"]["frames"]
    assert summary["duration_s"] == body["audio"]["duration_s"]
    assert len(summary["channels"]) == len(body["channels"])
    for index, (live, file) in enumerate(zip(summary["channels"], body["channels"], strict=True)):
        frames: dict[str, list[float | None]] = {}
        for message in told:
            if message["type"] == "scores":
                assert message["first_frame"] == len(next(iter(frames.values()), []))
                for label, column in message["channels"][index]["frames"].items():
                    frames.setdefault(label, []).extend(column)
        assert list(frames) == list(file["frames"])
        for label, column in file["frames"].items():
            expected, found = np.array(column, float), np.array(frames[label], float)  # null becomes NaN
            assert len(found) == len(expected)
            np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE, err_msg=label)
        for part in ("events", "levels", "summary", "verdict"):
            assert_close(live[part], file[part], part)
        ended = [m for m in told if m["type"] == "event" and m["channel"] == index and m["phase"] == "end"]
        said = [{k: v for k, v in m.items() if k not in ("type", "phase", "channel")} for m in ended]
        assert_close(sorted(said, key=lambda event: event["event_id"]), file["events"], "ended events")


CUTS = {
    "319 samples": lambda audio: cut(audio, 2 * 319),
    "320 samples": lambda audio: cut(audio, 2 * 320),
    "321 samples": lambda audio: cut(audio, 2 * 321),
    "odd bytes": lambda audio: cut(audio, 2 * 320 + 1),
    "1 s": lambda audio: cut(audio, 2 * 16_000),
    "one message": lambda audio: [audio],
    "random": lambda audio: cut_at_random(audio, 3),
}


@pytest.mark.parametrize("cutting", CUTS)
def test_a_stream_gets_the_answer_of_its_recording_however_it_is_cut(make_client, runner, cutting):
    client = make_client(runner)
    samples = call(3.013)
    body = inspected(client, wav_of(samples))
    assert body["audio"]["frames"] == -(-len(samples) // 320)
    assert_same_answer(streamed(client, CUTS[cutting](as_pcm16(samples))), body)


@pytest.mark.parametrize("lookahead_frames", [0, 1, 5])
def test_any_look_ahead(make_client, lookahead_frames):
    client = make_client(EchoRunner(lookahead_frames=lookahead_frames))
    samples = call(2.0)[:-37]
    assert_same_answer(streamed(client, cut_at_random(as_pcm16(samples), 5)), inspected(client, wav_of(samples)))


@pytest.mark.parametrize("count", [1, 319, 321, 1601])
def test_messages_of_one_sample(make_client, runner, count):
    client = make_client(runner)
    samples = call(1.0)[-count:]
    assert_same_answer(streamed(client, cut(as_pcm16(samples), 2)), inspected(client, wav_of(samples)))


@pytest.mark.parametrize("query", ["?emit_ms=20", "?emit_ms=60", "?emit_ms=1000"])
def test_the_interval_and_with_it_the_size_of_chunks_changes_nothing(make_client, runner, query):
    client = make_client(runner)
    samples = call(3.0)
    assert_same_answer(streamed(client, cut(as_pcm16(samples), 640), query), inspected(client, wav_of(samples)))


def test_flushing_on_the_way_changes_nothing(make_client, runner):
    client = make_client(runner)
    samples = call(4.0)
    told: list[dict[str, Any]] = []
    with client.websocket_connect("/v1/stream") as session:
        for piece in cut_at_random(as_pcm16(samples), 7):
            session.send_bytes(piece)
            session.send_text('{"type":"Finalize"}')
        session.send_text('{"type":"CloseStream"}')
        while not told or told[-1]["type"] != "summary":
            told.append(session.receive_json())
        assert session.receive()["code"] == 1000
    assert_same_answer(told, inspected(client, wav_of(samples)))


@pytest.mark.parametrize(("encoding", "encode", "subtype"), [
    ("mulaw", encode_mulaw, "ULAW"), ("alaw", encode_alaw, "ALAW"),
])  # fmt: skip
def test_telephone_codes_at_8_khz(make_client, runner, encoding, encode, subtype):
    import io

    import soundfile

    client = make_client(runner)
    integers = (call(5.0, rate_hz=8_000) * 32767).astype("<i2")
    file = io.BytesIO()
    soundfile.write(file, integers, 8_000, format="WAV", subtype=subtype)
    codes = encode(integers.astype(np.float32) / 32768).tobytes()
    told = streamed(client, cut(codes, 160), f"?encoding={encoding}&sample_rate=8000")
    assert_same_answer(told, inspected(client, file.getvalue()))


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 44_100, 48_000])
def test_other_sample_rates(make_client, runner, rate_hz):
    client = make_client(runner)
    samples = call(2.5, rate_hz=rate_hz)
    told = streamed(client, cut_at_random(as_pcm16(samples), rate_hz), f"?sample_rate={rate_hz}")
    assert_same_answer(told, inspected(client, wav_of(samples, rate_hz)))


def test_float_samples_beyond_full_scale(make_client, runner):
    client = make_client(runner)
    samples = 3 * call(2.0)
    told = streamed(client, cut(samples.tobytes(), 4 * 777 + 3), "?encoding=float32")
    assert_same_answer(told, inspected(client, wav_bytes(samples, subtype="FLOAT")))


def test_stereo_is_two_monos(make_client, runner):
    client = make_client(runner)
    left, right = call(4.0, seed=1), call(4.0, seed=2)
    stereo = np.stack([left, right], axis=1)
    told = streamed(client, cut_at_random(as_pcm16(stereo), 11), "?channels=2")
    assert_same_answer(told, inspected(client, wav_of(stereo)))
    for index, mono in enumerate((left, right)):
        alone = streamed(client, cut(as_pcm16(mono), 3200))
        mono_answer, stereo_answer = dict(alone[-1]["channels"][0]), dict(told[-1]["channels"][index])
        assert (mono_answer.pop("channel"), stereo_answer.pop("channel")) == (0, index)
        assert_close(mono_answer, stereo_answer)
        columns: list[dict[str, list[float | None]]] = [{}, {}]
        for place, (said, channel) in enumerate(((alone, 0), (told, index))):
            for message in said:
                if message["type"] == "scores":
                    for label, column in message["channels"][channel]["frames"].items():
                        columns[place].setdefault(label, []).extend(column)
        for label, column in columns[0].items():
            np.testing.assert_allclose(
                np.array(column, float), np.array(columns[1][label], float), rtol=0, atol=TOLERANCE
            )


@pytest.mark.parametrize("others", [31, pytest.param(255, marks=pytest.mark.slow)])
def test_alone_is_as_among_strangers(runner, others):
    """One stream runs with others over real sockets, so that their chunks share steps."""
    from live_server import serving

    files = 2 * (others + 1) + 100  # both ends of each connection are in this process
    if allow_open_files(files) < files:
        pytest.skip(f"{files} open files are needed, more than this system allows")
    samples, pieces = call(2.0), cut(as_pcm16(call(2.0)), 3200)

    async def one(url: str, audio: list[bytes]) -> list[dict[str, Any]]:
        async with StreamClient.connect(url, open_timeout_s=60) as stream:
            for piece in audio:
                await stream.send(piece)
            await stream.close()
            return [json.loads(message.model_dump_json(exclude_unset=True)) async for message in stream]

    async def stranger(url: str, audio: list[bytes]) -> None:
        """Send and read; the messages are not checked."""
        async with connect(f"{url}/v1/stream", compression=None, open_timeout=60) as link:
            for piece in audio:
                await link.send(piece)
            await link.send('{"type":"CloseStream"}')
            async for _ in link:
                pass
            assert link.close_code == 1000

    async def main() -> tuple[dict[str, Any], list[dict[str, Any]], float]:
        import httpx

        async with serving(runner, max_streams=others + 1) as (url, app):
            async with httpx.AsyncClient() as http:
                answer = await http.post(url.replace("ws:", "http:") + "/v1/inspect", content=wav_of(samples))
            before = app.state.parts.engine.status
            strangers = [cut(as_pcm16(call(2.0, seed=seed)), 3200) for seed in range(5, 13)]
            told, *_ = await asyncio.gather(
                one(url, pieces), *(stranger(url, strangers[number % 8]) for number in range(others))
            )
            after = app.state.parts.engine.status
            entries = after.mean_batch * after.steps - before.mean_batch * before.steps
            return answer.json(), told, entries / (after.steps - before.steps)

    body, told, mean_batch = asyncio.run(main())
    assert mean_batch > others / 8, "strangers must have shared steps, or this proves nothing"
    assert_same_answer(told, body)


@pytest.mark.slow
@pytest.mark.parametrize("hops", [2, 10, 40])
def test_neither_lane_nor_batch_matters_to_the_shipped_model(shipped_runner, hops):
    """On the CPU the difference was exactly zero; the tolerance is for runtimes that choose kernels by shape."""
    from speech_qc.audio.features import FrontEnd

    samples = np.stack([call(4.0, seed=seed) for seed in range(8)])
    features = FrontEnd()(samples)[:, :360]

    def scores(rows: int, size: int) -> np.ndarray:
        state = np.zeros((rows, shipped_runner.contract.state_size), np.float32)
        parts = []
        for start in range(0, features.shape[1], size):
            part, state = shipped_runner.run(np.ascontiguousarray(features[:rows, start : start + size]), state)
            parts.append(part[0])
        return np.concatenate(parts)

    expected = scores(1, 360)
    assert np.ptp(expected[:, shipped_runner.contract.index("noise")]) > 0.1, "constant scores would prove nothing"
    for rows in (1, 2, 5, 8):
        np.testing.assert_allclose(scores(rows, hops), expected, rtol=0, atol=TOLERANCE)
