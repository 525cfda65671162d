"""Gaps: what was not received is null, in no measure, at its true time, and the same for any blocks."""

from math import ceil

import numpy as np
import pytest

from signals import talk, white_noise
from speech_qc.audio.features import FrontEnd
from speech_qc.engine import EchoRunner
from speech_qc.pipeline.channel_scores import Update
from speech_qc.pipeline.chunk_reader import ChunkReader
from speech_qc.pipeline.gaps import bridge_samples
from speech_qc.pipeline.session import Session
from speech_qc.scoring import load_profiles

PROFILE = load_profiles().get("default")
FRONT_END = FrontEnd()


def run(runner, parts, *, sizes=(320,), hops=10, rate_hz=16_000, heard=None):
    """Push parts, arrays of samples or (gap samples, kind), in blocks; return the session and its updates, in order."""
    session = Session(
        runner.contract, rate_hz, keep_frames=True, gaps=True, reader=ChunkReader(runner.contract), on_heard=heard
    )
    state = np.zeros((1, runner.contract.state_size), np.float32)
    reader, updates = ChunkReader(runner.contract), []

    def score():
        nonlocal state
        while (chunk := session.take(hops)) is not None:
            scores, state = runner.run(FRONT_END(chunk[None]), state)
            (reading,) = reader(chunk[None], scores)
            update: Update | None = session.accept(reading)
            while update is not None:
                updates.append(update)
                update = update.rest

    turn = 0
    for part in parts:
        if isinstance(part, tuple):
            session.gap(*part)
            continue
        position = 0
        while position < len(part):
            size = sizes[turn % len(sizes)]
            session.push(part[position : position + size])
            position, turn = position + size, turn + 1
            score()
    session.finish()
    score()
    return session, updates


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 16_000])
@pytest.mark.parametrize("gap_s", [0.003, 0.02, 0.06, 0.35, 3.0, 3600.0])
def test_the_same_audio_with_the_same_gaps_gets_the_same_answer(rate_hz, gap_s):
    runner = EchoRunner(lookahead_frames=2)
    gap = (round(gap_s * rate_hz), "loss")
    a, b = talk(rate_hz, seconds=1.5), white_noise(0.9, rate_hz=rate_hz, seed=2)
    parts = [a, gap, b, (rate_hz // 50, "dtx"), a]
    whole, _ = run(runner, parts, sizes=[100_000], rate_hz=rate_hz)
    cut, updates = run(runner, parts, sizes=[1, 7, 160, 2_000], hops=2, rate_hz=rate_hz)
    first, second = whole.record(PROFILE), cut.record(PROFILE)

    np.testing.assert_array_equal(first.frames, second.frames)
    assert (first.events, first.levels, first.summary) == (second.events, second.levels, second.summary)
    assert first.transport == second.transport
    samples = 2 * len(a) + len(b) + gap[0] + rate_hz // 50
    assert first.duration_s == samples / rate_hz
    # At 11025 Hz, 20 ms is no whole number of samples.
    assert abs(first.frame_total - ceil(samples * 50 / rate_hz)) <= (rate_hz == 11_025)
    at = 0
    for update in updates:  # an update begins where the one before ended, unless frames were skipped
        assert update.first_frame >= at
        at = update.stop_frame
    assert at == second.frame_total


@pytest.mark.parametrize("gap_s", [0.02, 0.1, 5.0])
def test_frames_of_a_gap_are_null_and_all_others_are_not(gap_s):
    a, b = white_noise(1.0, seed=1), white_noise(1.0, seed=2)
    session, _ = run(EchoRunner(lookahead_frames=2), [a, (round(gap_s * 16_000), "loss"), b])
    frames = session.record(PROFILE).frames
    noise = frames[:, session.contract.index("noise")]
    missing = np.flatnonzero(np.isnan(noise))

    assert missing.tolist() == list(range(50, 50 + round(gap_s * 50)))
    assert np.isnan(frames[missing]).all()


def test_a_gap_counts_in_no_ratio_and_is_reported():
    a, b = white_noise(2.0, seed=1), white_noise(2.0, seed=2)
    runner = EchoRunner(lookahead_frames=2)
    record = run(runner, [a, (16_000, "loss"), b, (8_000, "dtx"), a])[0].record(PROFILE)
    plain = run(runner, [a, b, a])[0].record(PROFILE)

    assert record.summary.frames == plain.summary.frames == 300
    assert record.levels.digital_silence_ratio == plain.levels.digital_silence_ratio == 0.0
    assert record.levels.rms_dbfs == plain.levels.rms_dbfs
    assert plain.transport is None
    transport = record.transport
    assert [(span.kind, span.start_s, span.stop_s) for span in transport.spans] == [
        ("loss", 2.0, 3.0),
        ("dtx", 5.0, 5.5),
    ]
    assert transport.missing_s == {"loss": 1.0, "dtx": 0.5}
    assert transport.share == pytest.approx(1.5 / 7.5)


def test_heard_samples_have_their_true_positions():
    pieces = []
    a, b = white_noise(0.5, seed=1), white_noise(0.5, seed=2)
    run(EchoRunner(), [a, (160_000, "hold"), b], heard=lambda position, samples: pieces.append((position, samples)))
    timeline = np.zeros(8_000 + 160_000 + 8_000, np.float32)
    for position, samples in pieces:
        timeline[position : position + len(samples)] = samples

    np.testing.assert_array_equal(timeline, np.concatenate([a, np.zeros(160_000, np.float32), b]))


def test_a_bridge_joins_both_sides_without_a_jump():
    t = np.arange(2_000, dtype=np.float32) / 16_000
    before, after = np.sin(2 * np.pi * 200 * t), -np.sin(2 * np.pi * 200 * t[:80] + 1)
    bridge = bridge_samples(before.astype(np.float32), 640, after.astype(np.float32))
    joined = np.concatenate([before, bridge, after])

    assert len(bridge) == 640
    assert np.abs(np.diff(joined)).max() < 0.2
    assert len(bridge_samples(np.zeros(0, np.float32), 5, np.ones(80, np.float32))) == 5


@pytest.mark.slow
@pytest.mark.parametrize("gap_s", [0.02, 0.06, 0.4, 30.0])
def test_gaps_in_speech_are_no_dropouts_and_add_no_events(shipped_runner, gap_s):
    speech = talk(8_000, seconds=12.0)
    cuts = [8_000 * i for i in (2, 4, 5, 7, 9)]
    plain = run(shipped_runner, [speech], rate_hz=8_000)[0].record(PROFILE)
    length = round(gap_s * 8_000)
    parts, start = [], 0
    for cut in cuts:
        parts += [speech[start:cut], (length, "loss")]
        start = cut + length if gap_s < 1 else cut
    record = run(shipped_runner, [*parts, speech[start:]], rate_hz=8_000)[0].record(PROFILE)
    labels = [event.label for event in record.events]

    assert "dropout" not in labels
    assert set(labels) <= {event.label for event in plain.events}
    assert record.summary.lost_ratio == plain.summary.lost_ratio


@pytest.mark.slow
@pytest.mark.parametrize("gap_s", [0.06, 2.0])
def test_the_model_gives_the_same_scores_for_any_packets_and_chunks(shipped_runner, gap_s):
    speech = talk(8_000, seconds=5.0)
    gap = (round(gap_s * 8_000), "loss")
    parts = [speech[:12_345], gap, speech[12_345:30_000], gap, speech[30_000:]]
    whole = run(shipped_runner, parts, sizes=[100_000], hops=40, rate_hz=8_000)[0].record(PROFILE)
    for sizes, hops in (([160], 10), ([7, 800, 1], 2)):
        cut = run(shipped_runner, parts, sizes=sizes, hops=hops, rate_hz=8_000)[0].record(PROFILE)
        np.testing.assert_allclose(cut.frames, whole.frames, atol=1e-4)
        assert [(event.label, event.onset_frame, event.offset_frame) for event in cut.events] == [
            (event.label, event.onset_frame, event.offset_frame) for event in whole.events
        ]
