"""Reading the scores of a step: the same for a stream alone and with others, and consistent with the report."""

from __future__ import annotations

import json

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scoring_material import make_contract

from speech_qc.pipeline.documents import frame_columns
from speech_qc.scoring.reading import SNR_ONE, TEXT_FRAMES, ScoreBlock, ScoreReader

CONTRACT = make_contract()
READER = ScoreReader(CONTRACT)
NAMES = [label.name for label in CONTRACT.labels]
MEASURES = [c for c, label in enumerate(CONTRACT.labels) if label.kind != "probability"]


def random_scores(batch: int, frames: int, seed: int) -> np.ndarray:
    """Return scores [B, n, C] of every kind, some exactly at their thresholds."""
    rng = np.random.default_rng(seed)
    scores = rng.beta(0.4, 0.4, (batch, frames, len(NAMES))).astype(np.float32)
    for column, label in enumerate(CONTRACT.labels):
        if label.kind == "probability":
            where = rng.random((batch, frames)) < 0.1
            values = np.array([label.enter, label.exit, 0.0, 1.0], np.float32)
            scores[:, :, column][where] = rng.choice(values, where.sum())
        else:
            scores[:, :, column] = rng.uniform(label.low, label.high, (batch, frames))
    return scores


def assert_same_block(found: ScoreBlock, expected: ScoreBlock) -> None:
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(found.shown, expected.shown)
    np.testing.assert_array_equal(found.totals, expected.totals)
    assert found[2:5] == expected[2:5]
    if found.frames:
        assert found.text() == expected.text()


@settings(max_examples=60)
@given(batch=st.integers(1, 9), frames=st.integers(0, TEXT_FRAMES + 4), seed=st.integers(0, 10_000))
def test_a_block_read_among_others_is_the_block_read_alone(batch: int, frames: int, seed: int) -> None:
    scores = random_scores(batch, frames, seed)
    together = READER.read(scores)
    assert len(together) == batch
    for row, block in enumerate(together):
        assert_same_block(block, READER.read_one(scores[row]))
        assert_same_block(together[row], block)


@settings(max_examples=60)
@given(frames=st.integers(1, 2 * TEXT_FRAMES), seed=st.integers(0, 10_000))
def test_the_text_of_a_block_is_the_reports_json(frames: int, seed: int) -> None:
    """With and without the shortcut for blocks of live streams."""
    block = READER.read_one(random_scores(1, frames, seed)[0])
    expected = frame_columns(CONTRACT, block.shown, NAMES)
    assert (block.made_text is None) == (frames > TEXT_FRAMES)
    for name, text in zip(NAMES, block.text(), strict=True):
        assert b"[" + text + b"]" == orjson.dumps(expected[name], option=orjson.OPT_SERIALIZE_NUMPY)


@settings(max_examples=60)
@given(frames=st.integers(1, 40), seed=st.integers(0, 10_000))
def test_bits_and_highest_say_what_a_look_at_every_score_says(frames: int, seed: int) -> None:
    scores = random_scores(1, frames, seed)[0]
    block = READER.read_one(scores)
    assert block.highest == [float(column.max()) for column in scores.T]
    for column, label in enumerate(CONTRACT.labels):
        judged = label.kind == "probability" and label.name != "speech"
        reached = judged and bool((scores[:, column] >= np.float32(label.enter)).any())
        fallen = judged and bool((scores[:, column] < np.float32(label.exit)).any())
        assert (bool(block.reached >> column & 1), bool(block.fallen >> column & 1)) == (reached, fallen), label.name


def test_measures_are_shown_where_there_is_speech_and_nowhere_else() -> None:
    scores = random_scores(1, 50, seed=3)[0]
    speech = scores[:, READER.layout.speech] >= np.float32(CONTRACT.labels[READER.layout.speech].enter)
    assert 0 < speech.sum() < 50, "or this proves nothing"
    block = READER.read_one(scores)
    for column in MEASURES:
        np.testing.assert_array_equal(np.isnan(block.shown[:, column]), ~speech)
        cells = json.loads(b"[" + block.text()[column] + b"]")
        assert [cell is None for cell in cells] == (~speech).tolist()
    probabilities = [c for c in range(len(NAMES)) if c not in MEASURES]
    np.testing.assert_array_equal(block.shown[:, probabilities], scores[:, probabilities])


def test_totals_of_blocks_add_up_to_those_of_the_whole() -> None:
    scores = random_scores(1, 90, seed=4)[0]
    whole = READER.read_one(scores).totals[-1]
    cuts = [scores[a:b] for a, b in ((0, 1), (1, 6), (6, 46), (46, 90))]
    np.testing.assert_array_equal(sum(READER.read_one(part).totals[-1] for part in cuts), whole)
    speech = scores[:, READER.layout.speech] >= np.float32(0.6)
    assert whole[len(NAMES)] == speech.sum()
    assert whole[len(NAMES) + 1] / SNR_ONE == pytest.approx(scores[speech, READER.layout.snr].sum(), abs=1e-3)


def test_reading_leaves_the_scores_as_they_are() -> None:
    scores = random_scores(2, 8, seed=5)
    before = scores.copy()
    READER.read(scores)
    np.testing.assert_array_equal(scores, before)
