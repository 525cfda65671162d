"""The memory of a live stream's session: a stated limit in steady state, and again after a burst."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from signals import voice
from speech_qc.engine import EchoRunner
from speech_qc.pipeline.chunk_reader import ChunkReader
from speech_qc.pipeline.session import Float32, Session
from speech_qc.pipeline.shared_channels import SharedChannels

CONTRACT = EchoRunner(lookahead_frames=2).contract
READER = ChunkReader(CONTRACT)
HOPS, FRAMES = 10, 5
COUNT = 64  # as many as share a bank
CHUNK = np.full((1, HOPS * CONTRACT.features.hop_samples + CONTRACT.features.overlap_samples), 0.01, np.float32)
READING = next(iter(READER(CHUNK, np.zeros((1, FRAMES, len(CONTRACT.labels)), np.float32))))


def in_16_bits(samples: np.ndarray) -> Float32:
    return (np.rint(samples * 2**15) / 2**15).astype(np.float32)


def score(session: Session) -> None:
    while session.take(HOPS) is not None:
        session.accept(READING)


@pytest.mark.parametrize(("rate_hz", "limit_kib"), [(8_000, 75), (16_000, 85), (48_000, 145)])
def test_a_session_keeps_within_its_limit_also_after_a_burst(rate_hz: int, limit_kib: int) -> None:
    messages = np.array_split(in_16_bits(voice(1.2, rate_hz=rate_hz)), 12)
    Session(CONTRACT, rate_hz)  # fills caches that all sessions share
    tracemalloc.start()
    try:
        shared = SharedChannels(CONTRACT, READER)
        sessions = [
            Session(CONTRACT, rate_hz, reader=READER, pool=shared.meters, rows=shared.rows, gaps=True, is_16_bit=True)
            for _ in range(COUNT)
        ]

        def paced() -> float:
            for message in messages:
                for session in sessions:
                    session.push(message, bounded=True)
                    score(session)
            return tracemalloc.get_traced_memory()[0] / COUNT / 1024

        assert paced() < limit_kib
        for session in sessions:
            for message in messages:  # 1.2 s at once, before any of it is scored
                session.push(message, bounded=True)
        assert tracemalloc.get_traced_memory()[0] / COUNT / 1024 > limit_kib, "no burst"
        for session in sessions:
            score(session)
        assert paced() < limit_kib
    finally:
        tracemalloc.stop()


def test_a_session_of_16_bits_refuses_float_samples() -> None:
    session = Session(CONTRACT, 16_000, is_16_bit=True)
    with pytest.raises(RuntimeError, match="16 bits"):
        session.push(np.full(1600, 0.1, np.float32))
