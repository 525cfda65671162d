"""Thousands of corrupted inputs: no 500, no hang, no memory growth. `make fuzz` sends more."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fuzz_run import run
from fuzz_talk import run_conversations

RECORDINGS, MEDIA, CAPTURES, CONVERSATIONS = 1000, 200, 400, 100
MOST_GROWTH_BYTES = 48 * 2**20


@pytest.mark.slow
def test_broken_recordings_are_refused_or_answered_and_leave_nothing():
    tally = run(RECORDINGS)
    assert tally.bad == []
    assert sum(tally.statuses.values()) == RECORDINGS
    assert tally.statuses[200] > 0.05 * RECORDINGS, "some are still recordings, or nothing was tried"
    assert tally.statuses[422] > 0.2 * RECORDINGS
    assert tally.growth_bytes < MOST_GROWTH_BYTES


@pytest.mark.slow
def test_broken_recordings_for_ffmpeg_leave_nothing_either():
    tally = run(MEDIA, kind="media")
    assert tally.bad == []
    assert sum(tally.statuses.values()) == MEDIA
    assert tally.statuses[200] > 0.05 * MEDIA and tally.statuses[422] > 0.05 * MEDIA
    assert tally.growth_bytes < MOST_GROWTH_BYTES


@pytest.mark.slow
def test_broken_captures_leave_nothing():
    tally = run(CAPTURES, kind="captures")
    assert tally.bad == []
    assert sum(tally.statuses.values()) == CAPTURES
    assert tally.statuses[200] > 0.3 * CAPTURES and tally.statuses[422] > 0.05 * CAPTURES
    assert tally.growth_bytes < MOST_GROWTH_BYTES


@pytest.mark.slow
def test_any_conversation_ends_in_order():
    codes = run_conversations(CONVERSATIONS)
    assert codes[1000] > 0 and codes[1008] > 0


@pytest.mark.slow
def test_whatever_the_document_allows_is_answered_as_it_says():
    schemathesis = pytest.importorskip("schemathesis", reason="the extra [dev] has it")
    from fuzz_http import run_schemathesis

    assert run_schemathesis(schemathesis, examples=40) > 40
