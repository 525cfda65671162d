"""The link of session and engine: chunks are aligned to messages, and a failed step is retried."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.client import connect

from live_server import serving
from signals import voice, white_noise
from speech_qc.engine import EchoRunner
from speech_qc.live.scorer import Scorer
from speech_qc.pipeline.factory import FLUSH_HOPS
from stream_material import CLOSE, converse, cut, frames_of, of_type, pcm16
from waiting import until

SECONDS = 1.2


def pcm(rate_hz: int, channels: int = 1) -> bytes:
    samples = voice(SECONDS, rate_hz=rate_hz) + white_noise(SECONDS, level_dbfs=-40, rate_hz=rate_hz)
    return pcm16(np.repeat(samples.astype(np.float32), channels))


async def until_all_is_scored(scorer: Scorer, samples: int) -> None:
    """Wait until this number of samples is received and all their chunks are done; no message reports that."""
    session = scorer.sessions[0]

    def scored() -> bool:
        return session.samples_in >= samples and not scorer._in_flight and session.remaining_hops < FLUSH_HOPS

    await until(scored, f"{samples} samples are scored", every_s=0.001)


@pytest.mark.parametrize(("rate_hz", "message_ms", "emit_ms", "channels"), [
    (16_000, 100, 100, 1), (8_000, 100, 100, 1), (16_000, 100, 100, 2), (16_000, 200, 100, 1),
    (8_000, 300, 100, 2), (16_000, 20, 20, 1), (8_000, 20, 20, 1),
])  # fmt: skip
def test_a_messages_scores_come_before_the_next_message_is_sent(rate_hz, message_ms, emit_ms, channels):
    """Without the alignment, every chunk of the stream would wait for the first samples of the next message."""
    samples = rate_hz * message_ms // 1000
    first, *pieces = cut(pcm(rate_hz, channels), 2 * channels * samples)

    async def main() -> None:
        async with serving() as (url, app):
            query = f"sample_rate={rate_hz}&emit_ms={emit_ms}&channels={channels}"
            async with connect(f"{url}/v1/stream?{query}", compression=None) as link, asyncio.timeout(20):
                assert json.loads(await link.recv())["type"] == "ready"
                await link.send(first)
                (stream,) = app.state.parts.streams._streams
                await until_all_is_scored(stream._scorer, samples)
                following, sent_ms = 0, message_ms
                for piece in pieces:
                    await link.send(piece)
                    sent_ms += message_ms
                    # Two frames of look-ahead, one for the window, and the filter's 12 ms at 8 kHz.
                    while following * 20 < sent_ms - 100:
                        message = json.loads(await link.recv())
                        if message["type"] == "scores":
                            assert message["first_frame"] == following
                            following += len(message["channels"][0]["frames"]["speech"])
                await link.send(CLOSE)

    asyncio.run(main())


class Stumbling(EchoRunner):
    """A runner that fails once at each of these steps."""

    def __init__(self, failing: set[int]) -> None:
        super().__init__(lookahead_frames=2)
        self.failing, self.steps = failing, 0

    def run(self, features: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.steps += 1
        if self.steps in self.failing:
            state += 100.0  # must not be visible
            raise RuntimeError("the device stumbled")
        return super().run(features, state)


def outcome(client: Any, channels: int) -> list[dict[str, Any]]:
    return converse(client, cut(pcm(16_000, channels), 3200), f"?channels={channels}")


@pytest.mark.parametrize("channels", [1, 2])
def test_steps_that_fail_now_and_then_are_not_heard(make_client, channels):
    stumbling = outcome(make_client(Stumbling({1, 3, 5, 9, 14})), channels)
    intact = outcome(make_client(Stumbling(set())), channels)
    assert of_type(stumbling, "error") == []
    for channel in range(channels):
        assert frames_of(stumbling, channel) == frames_of(intact, channel)
    assert stumbling[-1]["code"] == 1000
    assert stumbling[-2]["channels"] == intact[-2]["channels"]


def test_the_second_failure_of_the_same_chunk_ends_the_stream_and_only_this_one(make_client):
    client = make_client(Stumbling({2, 3}))
    *_, error, close = outcome(client, 1)
    assert (error["error"]["code"], close["code"]) == ("inference_error", 1011)
    assert outcome(client, 1)[-1]["code"] == 1000
