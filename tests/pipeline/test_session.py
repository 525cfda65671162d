from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signals import talk, voice, white_noise
from speech_qc.audio.features import FrontEnd
from speech_qc.engine import EchoRunner
from speech_qc.errors import InvalidAudio
from speech_qc.pipeline.chunk_reader import ChunkReader
from speech_qc.pipeline.session import Session
from speech_qc.scoring import load_profiles

PROFILE = load_profiles().get("default")
FRONT_END = FrontEnd()


def accept(session, chunk, scores):
    """Pass on the scores of one chunk, read like the engine."""
    (reading,) = ChunkReader(session.contract)(chunk[None], scores)
    return session.accept(reading)


def run(runner, samples, *, sizes, hops=10, rate_hz=16_000, **options):
    """Push blocks of these sizes cyclically and score chunk by chunk, like a server."""
    session = Session(runner.contract, rate_hz, keep_frames=True, **options)
    state = np.zeros((1, runner.contract.state_size), np.float32)
    updates = []

    def score():
        nonlocal state
        while (chunk := session.take(hops)) is not None:
            scores, state = runner.run(FRONT_END(chunk[None]), state)
            updates.append(accept(session, chunk, scores))

    position, turn = 0, 0
    while position < len(samples):
        size = sizes[turn % len(sizes)]
        session.push(samples[position : position + size])
        position, turn = position + size, turn + 1
        score()
    session.finish()
    score()
    return session, updates


@given(
    count=st.integers(1, 20_000),
    sizes=st.lists(st.integers(1, 6_000), min_size=1, max_size=4),
    hops=st.sampled_from([2, 10, 40, 400]),
    lookahead=st.integers(0, 5),
)
@settings(max_examples=60)
def test_blocks_and_chunks_of_any_size_give_the_same_frames(count, sizes, hops, lookahead):
    runner = EchoRunner(lookahead_frames=lookahead)
    samples = white_noise(count / 16_000, seed=count)
    whole, _ = run(runner, samples, sizes=[count])
    cut, updates = run(runner, samples, sizes=sizes, hops=hops)

    assert whole.frames_done == cut.frames_done == ceil(count / 320)
    a, b = whole.record(PROFILE), cut.record(PROFILE)
    np.testing.assert_array_equal(a.frames, b.frames)
    assert a.events == b.events
    assert a.levels == b.levels
    assert a.summary == b.summary
    assert a.verdict == b.verdict
    starts = [update.first_frame for update in updates]
    lengths = [len(update.scores) for update in updates]
    assert starts == list(np.cumsum([0, *lengths])[:-1])


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 44_100, 48_000])
def test_other_rates_do_not_depend_on_blocks_either(rate_hz):
    runner = EchoRunner(lookahead_frames=2)
    samples = voice(1.3, rate_hz=rate_hz)
    whole, _ = run(runner, samples, sizes=[len(samples)], rate_hz=rate_hz)
    cut, _ = run(runner, samples, sizes=[1, 7, 319, 2_000], rate_hz=rate_hz)
    np.testing.assert_array_equal(whole.record(PROFILE).frames, cut.record(PROFILE).frames)
    assert whole.frames_done == ceil(ceil(len(samples) * 16_000 / rate_hz) / 320)


def test_frame_times_stay_true_under_lookahead():
    """A burst in frame 30 is scored in frame 30, whatever the model's look-ahead."""
    samples = np.zeros(16_000, np.float32)
    samples[30 * 320 : 31 * 320] = 0.5
    for lookahead in (0, 1, 5):
        runner = EchoRunner(lookahead_frames=lookahead)
        session, _ = run(runner, samples, sizes=[1_000])
        frames = session.record(PROFILE).frames
        expected = runner.expected(FRONT_END(np.pad(samples, (0, 240))[None])[0])
        np.testing.assert_allclose(frames[:49, 1], expected[:49, 1], atol=1e-6)


def test_the_end_of_a_recording_is_not_heard_as_silence():
    """Beyond the end, windows and look-ahead contain mirrored sound, not zeros."""
    runner = EchoRunner(lookahead_frames=5)
    session = Session(runner.contract, 16_000)
    noise = white_noise(1.0)
    session.push(noise[:15_999])
    session.finish()
    chunks = []
    while (chunk := session.take(2)) is not None:
        chunks.append(chunk)
        accept(session, chunk, np.zeros((1, 1, len(runner.contract.labels)), np.float32))
    levels = [float(np.sqrt(np.mean(chunk**2))) for chunk in chunks]
    assert min(levels) > 0.5 * max(levels)


def test_a_session_without_frames_keeps_no_scores():
    runner = EchoRunner()
    session = Session(runner.contract, 16_000)
    session.push(voice(1.0))
    while (chunk := session.take(10)) is not None:
        scores, _ = runner.run(FRONT_END(chunk[None]), np.zeros((1, runner.contract.state_size), np.float32))
        accept(session, chunk, scores)
    assert session.record(PROFILE).frames is None


def test_events_beyond_the_limit_are_counted_not_kept():
    runner = EchoRunner()
    full, _ = run(runner, white_noise(3.0), sizes=[16_000])
    few, _ = run(runner, white_noise(3.0), sizes=[16_000], max_events=2)
    found = full.record(PROFILE).events
    assert len(found) > 2
    record = few.record(PROFILE)
    assert len(record.events) == 2
    assert record.events_dropped == len(found) - 2


def test_overshoot_is_scored_clipped_and_measured_as_it_is():
    runner = EchoRunner()
    loud = white_noise(1.0) * 20
    clipped, _ = run(runner, np.clip(loud, -1, 1), sizes=[4_000])
    overshooting, _ = run(runner, loud, sizes=[4_000])
    np.testing.assert_array_equal(clipped.record(PROFILE).frames, overshooting.record(PROFILE).frames)
    assert overshooting.record(PROFILE).levels.peak_dbfs > 0


def test_integer_scaled_floats_are_refused_with_the_remedy():
    with pytest.raises(InvalidAudio, match="divide by 32768"):
        Session(EchoRunner().contract, 16_000).push(voice(0.1) * 32_768)


def test_audio_after_the_end_is_a_programming_error():
    session = Session(EchoRunner().contract, 16_000)
    session.finish()
    with pytest.raises(RuntimeError, match="one stream"):
        session.push(voice(0.1))
    assert session.take(2) is None
    assert session.scores.done


class TalkingRunner(EchoRunner):
    """Scores every frame as speech, and dropouts by the level."""

    def run(self, features, state):
        scores, state = super().run(features, state)
        scores[:, :, self.contract.index("speech")] = 0.9
        return scores, state


def damaged(rate_hz):
    """Speech with three lost packets, of which the last is repeated, and zeros at both ends."""
    samples, packet = talk(rate_hz), rate_hz // 50
    loud = [int(t * rate_hz) for t in (0.5, 1.5, 2.5)]
    for start in loud[:2]:
        samples[start : start + packet] = 0
    samples[loud[2] : loud[2] + 2 * packet] = np.tile(samples[loud[2] - packet : loud[2]], 2)
    samples[: rate_hz // 10] = samples[-rate_hz // 10 :] = 0
    return samples, [start / rate_hz for start in loud]


def dropouts(record):
    return [event for event in record.events if event.label == "dropout"]


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 48_000])
def test_lost_packets_are_dropouts_with_exact_times_and_zeros_at_the_ends_are_none(rate_hz):
    samples, places = damaged(rate_hz)
    session, _ = run(TalkingRunner(lookahead_frames=2), samples, sizes=[len(samples)], rate_hz=rate_hz)
    record = session.record(PROFILE)
    found = dropouts(record)
    assert [event.onset_s for event in found] == pytest.approx(places, abs=0.001)
    assert [event.detail.kind for event in found] == ["zeros", "zeros", "repeated"]
    assert [event.detail.gap_ms for event in found] == pytest.approx([20, 20, 40], abs=1.5)
    assert session.scores.event_counts["dropout"] == 3
    assert record.summary.losses_per_min == pytest.approx(45.0)
    assert record.summary.longest_loss_ms == pytest.approx(40, abs=1.5)


@given(sizes=st.lists(st.integers(1, 9_000), min_size=1, max_size=4), hops=st.sampled_from([2, 10, 40, 400]))
@settings(max_examples=20)
def test_dropouts_do_not_depend_on_blocks_and_chunks(sizes, hops):
    samples, _ = damaged(8_000)
    whole, updates = run(TalkingRunner(lookahead_frames=2), samples, sizes=[len(samples)], rate_hz=8_000)
    cut, pieces = run(TalkingRunner(lookahead_frames=2), samples, sizes=sizes, hops=hops, rate_hz=8_000)
    assert len(dropouts(whole.record(PROFILE))) == 3
    assert cut.record(PROFILE).events == whole.record(PROFILE).events
    assert cut.record(PROFILE).summary == whole.record(PROFILE).summary
    said = [[(e.phase, e.event) for update in part for e in update.events] for part in (updates, pieces)]
    assert said[0] == said[1]


def test_a_hole_that_is_open_at_the_end_is_no_dropout():
    samples, _ = damaged(16_000)
    session, _ = run(TalkingRunner(), samples[: int(1.515 * 16_000)], sizes=[700])
    assert [event.onset_s for event in dropouts(session.record(PROFILE))] == pytest.approx([0.5], abs=0.001)


def test_a_dropout_is_said_soon_after_the_sound_resumes():
    """The window of the detector ends at most 0.4 s after the loss."""
    samples, places = damaged(16_000)
    runner, state = TalkingRunner(), np.zeros((1, TalkingRunner().contract.state_size), np.float32)
    live, heard_s = Session(runner.contract, 16_000), None
    for position in range(0, 40_000, 320):
        live.push(samples[position : position + 320])
        while (chunk := live.take(2)) is not None:
            scores, state = runner.run(FRONT_END(chunk[None]), state)
            labels = [update.event.label for update in accept(live, chunk, scores).events]
            if "dropout" in labels and heard_s is None:
                heard_s = (position + 320) / 16_000
    assert heard_s is not None and heard_s - places[0] < 0.45
