import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signals import voice, white_noise
from speech_qc.audio.features import FrontEnd, frame_count, frame_levels_dbfs, mel_centres_hz, mel_filterbank
from speech_qc.contract import WAVEFORM_COLUMNS, FeatureSpec

SPEC = FeatureSpec()
FRONT_END = FrontEnd(SPEC)
WAVE = {name: SPEC.mel_bands + i for i, name in enumerate(WAVEFORM_COLUMNS)}


def rows(samples, hops=None):
    """Return the feature rows of all complete hops, or of the first `hops`."""
    found = FRONT_END(np.asarray(samples, np.float32)[None])[0]
    return found[:hops]


def tone(hz, amplitude=1.0, seconds=1.0):
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(round(seconds * 16_000)) / 16_000)).astype(np.float32)


@given(
    cuts=st.lists(st.integers(1, 90), min_size=1, max_size=30),
    seed=st.integers(0, 1000),
    kind=st.sampled_from(["noise", "voice", "quiet"]),
)
@settings(max_examples=40)
def test_rows_are_the_same_bits_for_any_chunking(cuts, seed, kind):
    samples = {
        "noise": lambda: white_noise(2.0, seed=seed),
        "voice": lambda: voice(2.0, seed=seed),
        "quiet": lambda: white_noise(2.0, level_dbfs=-95, seed=seed),
    }[kind]()
    whole = rows(samples)
    position = 0
    for hops in cuts:
        piece = samples[position * 160 : (position + hops) * 160 + 240]
        got = rows(piece)
        np.testing.assert_array_equal(got, whole[position : position + len(got)])
        position += hops


def test_rows_do_not_depend_on_their_batch_mates():
    batch = np.stack([white_noise(1.0, seed=i) for i in range(17)])
    together = FRONT_END(batch)
    for i in (0, 7, 16):
        np.testing.assert_array_equal(FRONT_END(batch[i : i + 1])[0], together[i])


@pytest.mark.parametrize(("batch", "hops"), [(1, 1), (3, 10), (64, 10), (65, 10), (130, 10), (2, 641), (1, 1300)])
def test_rows_do_not_depend_on_how_many_there_are(batch, hops):
    samples = np.stack([white_noise(hops / 100 + 0.1, seed=i)[: hops * 160 + 240] for i in range(batch)])
    together = FRONT_END(samples)
    for b, t in {(0, 0), (batch - 1, hops - 1), (batch // 2, hops // 3)}:
        alone = FRONT_END(samples[b : b + 1, t * 160 : t * 160 + 400])
        np.testing.assert_array_equal(alone[0, 0], together[b, t])


@pytest.mark.parametrize("block_rows", [1, 7, 33, 100, 2000])
def test_rows_do_not_depend_on_the_size_of_blocks(block_rows):
    samples = np.stack([white_noise(1.5, seed=i) for i in range(5)])
    np.testing.assert_array_equal(FrontEnd(SPEC, block_rows=block_rows)(samples), FRONT_END(samples))


@pytest.mark.parametrize("offset", range(1, 9))
def test_rows_do_not_depend_on_where_the_samples_lie_in_memory(offset):
    samples = voice(1.0, seed=4).astype(np.float32)
    memory = np.zeros(len(samples) + 16, np.float32)
    memory[offset : offset + len(samples)] = samples
    np.testing.assert_array_equal(rows(memory[offset : offset + len(samples)]), rows(samples))
    strided = np.repeat(samples, 2)[::2]
    np.testing.assert_array_equal(rows(strided), rows(samples))


def test_a_short_call_leaves_nothing_behind_for_the_next():
    front_end = FrontEnd(SPEC)
    front_end(white_noise(3.0, seed=1)[None].astype(np.float32))
    samples = voice(0.5, seed=2)[None].astype(np.float32)
    np.testing.assert_array_equal(front_end(samples), FrontEnd(SPEC)(samples))


def test_threads_can_share_a_front_end():
    chunks = [white_noise(1.0, seed=i)[None].astype(np.float32) for i in range(8)]
    expected = [FRONT_END(chunk) for chunk in chunks]
    shared = FrontEnd(SPEC)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for found, right in zip(pool.map(shared, chunks), expected, strict=True):
                np.testing.assert_array_equal(found, right)


def test_a_full_scale_sine_reads_zero_db_in_its_band():
    centres = mel_centres_hz(SPEC)
    band = 30
    found = rows(tone(centres[band]))[20, : SPEC.mel_bands]
    assert int(np.argmax(found)) == band
    assert 10 * np.log10(np.e) * found[band] == pytest.approx(0.0, abs=3.0)


def test_every_band_has_weight_and_unit_peak_or_less():
    filters = mel_filterbank(SPEC)
    assert filters.shape == (257, 64)
    assert (filters.sum(axis=0) > 0.5).all()
    assert filters.max() <= 1.0


def test_digital_silence_reads_the_floor():
    found = rows(np.zeros(16_000))
    np.testing.assert_allclose(found[:, : SPEC.mel_bands], np.log(1e-10), rtol=1e-6)
    assert (found[:, WAVE["zero_run"]] == 1.0).all()
    assert (found[:, WAVE["crest_db"]] == 0.0).all()


def test_waveform_columns_measure_what_they_say():
    samples = tone(1000.0, 0.5)
    found = rows(samples)[10]
    assert found[WAVE["log_energy"]] == pytest.approx(np.log(0.125), abs=1e-3)
    assert found[WAVE["log_peak"]] == pytest.approx(np.log(0.5), abs=1e-2)
    assert found[WAVE["crest_db"]] == pytest.approx(3.01, abs=0.05)
    assert found[WAVE["zero_crossing_ratio"]] == pytest.approx(2 * 10 / 159, abs=1 / 159)
    assert found[WAVE["dc_offset"]] == pytest.approx(0.0, abs=1e-3)
    assert found[WAVE["rail_ratio"]] == 0.0


def test_rails_and_flat_tops_show_clipping():
    clipped = np.clip(tone(200.0, 4.0), -0.99, 0.99)
    low_rail = clipped * 0.3
    assert rows(clipped)[10, WAVE["rail_ratio"]] > 0.7
    assert rows(low_rail)[10, WAVE["rail_ratio"]] == 0.0
    assert rows(low_rail)[10, WAVE["flat_top_ratio"]] > 0.7
    assert rows(tone(200.0))[10, WAVE["flat_top_ratio"]] == pytest.approx(0.2, abs=0.05)


def test_runs_of_zeros_and_of_identical_samples_are_found():
    samples = white_noise(0.1)
    samples[160 + 10 : 160 + 50] = 0.0
    samples[320 + 100 : 320 + 130] = 0.25
    found = rows(samples)
    assert found[1, WAVE["zero_run"]] == pytest.approx(40 / 160)
    assert found[1, WAVE["identical_run"]] == pytest.approx(40 / 160)
    assert found[2, WAVE["identical_run"]] == pytest.approx(30 / 160)
    assert found[0, WAVE["zero_run"]] == 0.0


def longest_run(marks):
    """Return the longest run of True, counted one by one."""
    return max((len(list(group)) for mark, group in itertools.groupby(marks) if mark), default=0)


@given(seed=st.integers(0, 10_000), values=st.integers(1, 6), stay=st.sampled_from([0.0, 0.3, 0.8, 0.97]))
@settings(max_examples=60)
def test_counts_and_runs_are_those_counted_one_by_one(seed, values, stay):
    rng = np.random.default_rng(seed)
    steps = rng.integers(-values, values + 1, 4 * 160) / max(values, 1)  # few values, so that many neighbours are equal
    held = np.maximum.accumulate(np.where(rng.random(len(steps)) < stay, 0, np.arange(len(steps))))
    samples = (steps[held] * rng.choice([1.0, 0.5])).astype(np.float32)
    for hop, found in zip(samples.reshape(-1, 160), rows(np.concatenate([samples, np.zeros(240)])), strict=True):
        same = longest_run(hop[1:] == hop[:-1])
        peak = np.abs(hop).max()
        counted = {
            "identical_run": (same + 1 if same else 0) / 160,
            "zero_run": longest_run(hop == 0) / 160,
            "zero_crossing_ratio": np.mean(np.signbit(hop)[1:] != np.signbit(hop)[:-1]),
            "rail_ratio": np.mean(np.abs(hop) >= np.float32(0.98)),
            "flat_top_ratio": np.mean(np.abs(hop) >= np.float32(0.95) * peak) if peak > 1e-5 else 0.0,
        }
        assert {name: found[WAVE[name]] for name in counted} == pytest.approx(counted, abs=1e-6)


@pytest.mark.parametrize(("samples", "frames"), [(0, 0), (1, 1), (320, 1), (321, 2), (16_000, 50)])
def test_frames_are_counted_by_ceiling(samples, frames):
    assert frame_count(samples, SPEC) == frames


def test_frame_levels_are_mean_squares_in_dbfs():
    found = frame_levels_dbfs(np.concatenate([tone(1000, 1.0, 0.02), np.zeros(320, np.float32)]), SPEC)
    np.testing.assert_allclose(found, [-3.01, -120.0], atol=0.01)


def test_too_few_samples_make_no_row():
    assert FRONT_END(np.zeros((3, 399), np.float32)).shape == (3, 0, 73)
