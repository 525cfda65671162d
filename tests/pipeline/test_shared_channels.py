"""Channels that advance together in shared rows get exactly what a channel alone gets."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from signals import voice, white_noise
from speech_qc.engine import EchoRunner, GroupResult
from speech_qc.pipeline.channel_rows import SHARED_ROWS, ChannelRows
from speech_qc.pipeline.channel_scores import Update
from speech_qc.pipeline.chunk_reader import ChunkReader
from speech_qc.pipeline.session import Session
from speech_qc.pipeline.shared_channels import SharedChannels
from speech_qc.scoring import load_profiles
from speech_qc.scoring.reading import ScoreReader

CONTRACT = EchoRunner(lookahead_frames=2).contract
READER = ChunkReader(CONTRACT)
HOPS, FRAMES = 10, 5
COUNT, CHUNKS = 7, 90
PROFILE = load_profiles().get("default")


def material(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sound with a hole, and scores [frames, C] with events that begin and end."""
    samples = (voice(10.0) + white_noise(10.0, level_dbfs=-50 + seed, seed=seed)).astype(np.float32)
    samples[48_000 + 900 * seed : 48_960 + 900 * seed] = 0.0
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0.0, 0.08, (CHUNKS * FRAMES, len(CONTRACT.labels))).astype(np.float32)
    scores[:, CONTRACT.index("speech")] = 0.9
    for column in range(1, len(CONTRACT.labels)):
        for start in rng.integers(0, len(scores), 2):
            scores[start : start + rng.integers(1, 120), column] = rng.uniform(0.3, 1.0)
    return samples, scores


def told(update: Update) -> tuple[int, list[bytes] | None, list[object]]:
    return update.first_frame, update.block.text() if update.block.frames else None, list(update.events)


class Ear:
    """Takes what the group gives to one channel."""

    def __init__(self, session: Session) -> None:
        self.session, self.text_only = session, True
        self.heard: list[tuple[int, list[bytes] | None, list[object]]] = []
        self.quiet = 0

    def told(self, text: list[bytes], frames: int, result: GroupResult, queue_s: float) -> None:  # noqa: ARG002
        self.quiet += 1
        self.heard.append((self.session.frames_done - frames, text, []))

    def updated(self, update: Update, result: GroupResult, queue_s: float) -> None:  # noqa: ARG002
        rest: Update | None = update
        while rest is not None:
            self.heard.append(told(rest))
            rest = rest.rest

    def failed(self, error: Exception) -> None:
        raise error


def advance(ears: list[Ear], scores: list[np.ndarray], shared: SharedChannels | None) -> None:
    """Score one chunk of each channel, together or each alone."""
    chunks = [ear.session.take(HOPS) for ear in ears]
    assert all(chunk is not None for chunk in chunks)
    samples, rows = np.stack([chunk for chunk in chunks if chunk is not None]), np.stack(scores)
    if shared is not None:
        shared.deliver(ears, GroupResult(list(range(len(ears))), READER(samples, rows), [0.0] * len(ears), 0.0, 0.0))
        return
    for ear, reading in zip(ears, READER(samples, rows), strict=True):
        rest: Update | None = ear.session.accept(reading)
        while rest is not None:
            ear.heard.append(told(rest))
            rest = rest.rest


def played(*, together: bool) -> list[Ear]:
    """Play channels that begin at different times; one has a gap."""
    shared = SharedChannels(CONTRACT, READER)
    parts: dict[str, Any] = {"pool": shared.meters, "rows": shared.rows} if together else {}
    ears = [Ear(Session(CONTRACT, 16_000, reader=READER, gaps=True, **parts)) for _ in range(COUNT)]
    sounds = [material(seed) for seed in range(COUNT)]
    places, done = [0] * COUNT, [0] * COUNT
    for turn in range(CHUNKS):
        for i, ear in enumerate(ears):
            if turn >= 3 * i:
                if i == 2 and turn == 40:
                    ear.session.gap(20_000, "loss")
                size = 1840 if not places[i] else 1600
                ear.session.push(sounds[i][0][places[i] : places[i] + size], bounded=True)
                places[i] += size
        while ready := [i for i, ear in enumerate(ears) if ear.session.remaining_hops >= HOPS]:
            scores = [sounds[i][1][done[i] * FRAMES : (done[i] + 1) * FRAMES] for i in ready]
            advance([ears[i] for i in ready], scores, shared if together else None)
            for i in ready:
                done[i] = done[i] + 1
    return ears


def test_channels_together_get_what_each_gets_alone() -> None:
    together, alone = played(together=True), played(together=False)
    assert sum(ear.quiet for ear in together) > COUNT * CHUNKS / 4, "most chunks bring no news"
    for ear, expected in zip(together, alone, strict=True):
        assert any(events for _, _, events in expected.heard)
        assert ear.heard == expected.heard
        one, other = ear.session.record(PROFILE), expected.session.record(PROFILE)
        assert (one.events, one.summary, one.transport) == (other.events, other.summary, other.transport)
        # A matrix product of another size rounds otherwise on some processors.
        found, wanted = (np.array([*asdict(each.levels).values()], np.float64) for each in (one, other))
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_a_channel_that_cannot_take_its_scores_does_not_disturb_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = SharedChannels(CONTRACT, READER)
    ears = [Ear(Session(CONTRACT, 16_000, reader=READER, pool=shared.meters, rows=shared.rows)) for _ in range(3)]
    failures: list[Exception] = []

    def look(*_: object, **__: object) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(ears[1].session.scores, "look", look)
    monkeypatch.setattr(ears[1], "failed", failures.append)
    loud = np.full((FRAMES, len(CONTRACT.labels)), 0.99, np.float32)
    for ear in ears:
        ear.session.push(voice(1.0).astype(np.float32), bounded=True)
    for _ in range(3):
        advance(ears, [loud] * 3, shared)
    assert failures and ears[0].heard == ears[2].heard != []


def test_rows_are_taken_as_they_are_needed_and_given_back() -> None:
    rows = ChannelRows(CONTRACT, ScoreReader(CONTRACT))
    leases = [rows.lease() for _ in range(5 * SHARED_ROWS)]
    assert sorted(lease.row for lease in leases) == list(range(5 * SHARED_ROWS))
    assert len(rows.events.frames) == 8 * SHARED_ROWS
    rows.events.frames[:] = 7
    kept = leases[0]
    del leases
    again = rows.lease()
    assert (kept.row, again.row) == (0, 1)
    assert (rows.events.frames[0], rows.events.frames[1]) == (7, 0), "a row is clear, the others are as they were"
    assert len(rows.events.frames) == len(rows.summary.scores) == SHARED_ROWS
