"""Losses in speech-like sound that the tests make themselves, and sound that only looks like one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signals import Float32, as_16_bit, talk, voice, white_noise
from speech_qc.audio.g711 import decode_alaw, decode_mulaw, encode_alaw, encode_mulaw
from speech_qc.audio.losses import Loss, LossBank
from speech_qc.errors import InvalidAudio
from speech_qc.pipeline.channel_meter import ChannelMeter, MeterPool

RATES = (8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000)
LOUD_S = 1.0
"""A time in the middle of a syllable of `talk`."""


def losses(samples: Float32, rate_hz: int = 16_000, sizes: tuple[int, ...] = (10**9,)) -> list[Loss]:
    detector = ChannelMeter(rate_hz)
    found: list[Loss] = []
    position = turn = 0
    while position < len(samples):
        size = sizes[turn % len(sizes)]
        detector.push(samples[position : position + size])
        found += detector.collect()
        position, turn = position + size, turn + 1
    return found + detector.finish()


def behind_the_last(samples: Float32, size: int) -> Float32:
    """Return the whole pieces of a stream, each behind the one before it; the first one behind zeros."""
    pieces = samples[: len(samples) // size * size].reshape(-1, size)
    return np.concatenate((np.vstack((np.zeros_like(pieces[:1]), pieces[:-1])), pieces), axis=1)


def span(start_s: float, length_s: float, rate_hz: int) -> slice:
    return slice(round(start_s * rate_hz), round(start_s * rate_hz) + round(length_s * rate_hz))


def with_zeros(length_s: float, rate_hz: int = 16_000, start_s: float = LOUD_S) -> Float32:
    samples = talk(rate_hz)
    samples[span(start_s, length_s, rate_hz)] = 0
    return samples


# --- what is a loss --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate_hz", RATES)
@pytest.mark.parametrize("length_s", [0.02, 0.06, 0.4])
def test_lost_packets_are_found_to_the_sample(rate_hz: int, length_s: float) -> None:
    lost = span(LOUD_S, length_s, rate_hz)
    (loss,) = losses(with_zeros(length_s, rate_hz), rate_hz)
    assert (loss.kind, loss.sure) == ("zeros", True)
    assert abs(loss.start - lost.start) <= 2 and abs(loss.stop - lost.stop) <= 2


@pytest.mark.parametrize(("encode", "decode"), [(encode_mulaw, decode_mulaw), (encode_alaw, decode_alaw)])
def test_lost_packets_of_a_telephone_line_are_found(encode, decode) -> None:
    (loss,) = losses(decode(np.frombuffer(encode(with_zeros(0.02, 8_000)), np.uint8)), 8_000)
    assert loss.kind == "zeros"
    assert abs(loss.start - LOUD_S * 8_000) <= 4


def test_a_dc_offset_hides_no_loss() -> None:
    lost = span(LOUD_S, 0.02, 16_000)
    samples = talk() + np.float32(0.05)
    samples[lost] = 0.05
    (loss,) = losses(samples)
    assert (loss.start, loss.stop) == (lost.start, lost.stop)


def test_a_loss_that_was_resampled_afterwards_is_found() -> None:
    soxr = pytest.importorskip("soxr")
    (loss,) = losses(as_16_bit(soxr.resample(with_zeros(0.06, 8_000), 8_000, 48_000)), 48_000)
    assert abs(loss.start / 48_000 - LOUD_S) < 0.005


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("gains", [(1.0,), (1.0, 0.7, 0.4), (0.5, 0.25, 0.125)])
def test_a_repeated_packet_is_found(rate_hz: int, gains: tuple[float, ...]) -> None:
    samples, packet = talk(rate_hz), rate_hz // 50
    start = round(LOUD_S * rate_hz)
    last = samples[start - packet : start].copy()
    for k, gain in enumerate(gains):
        samples[start + k * packet : start + (k + 1) * packet] = as_16_bit(gain * last)
    (loss,) = losses(samples, rate_hz)
    assert loss.kind in ("repeated", "faded")
    assert abs(loss.start - start) <= 0.002 * rate_hz
    assert abs(loss.stop - start - len(gains) * packet) <= 0.006 * rate_hz


def test_a_packet_that_is_repeated_once_is_not_faded() -> None:
    samples = talk()
    samples[16_000:16_320] = samples[15_680:16_000]
    assert [loss.kind for loss in losses(samples)] == ["repeated"]


@pytest.mark.parametrize("period", [97, 123, 151])
def test_pitch_periods_that_fade_are_found(period: int) -> None:
    samples, count = talk(), 960
    start = 16_000
    fade = np.clip(1.2 - np.arange(count) / 800, 0, 1)
    samples[start : start + count] = as_16_bit(np.resize(samples[start - period : start], count) * fade)
    (loss,) = losses(samples)
    assert loss.kind == "faded"
    assert abs(loss.stop - start - count) <= 100


# --- what is none ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate_hz", RATES)
def test_speech_has_no_losses(rate_hz: int) -> None:
    assert losses(talk(rate_hz), rate_hz) == []


@pytest.mark.parametrize("length_s", [0.02, 0.045, 0.5])
def test_zeros_at_the_edges_are_no_loss(length_s: float) -> None:
    zeros = np.zeros(round(length_s * 16_000), np.float32)
    cut = talk()[15_500:48_500]
    for samples in (np.concatenate([zeros, cut]), np.concatenate([cut, zeros]), np.concatenate([zeros, cut, zeros])):
        assert losses(samples) == []


def test_a_hole_that_is_open_at_the_end_is_none() -> None:
    assert losses(with_zeros(0.5)[: round((LOUD_S + 0.3) * 16_000)]) == []


def test_a_gate_that_closes_after_the_sound_has_decayed_makes_no_loss() -> None:
    samples = talk()
    level = np.sqrt(np.convolve(samples**2, np.ones(320) / 320, mode="same"))
    samples[level < 0.003] = 0
    assert np.count_nonzero(samples == 0) > 4_000
    assert losses(samples) == []


def gated(frame: int) -> Float32:
    """Speech whose pauses are zero, in frames of so many samples, with soft sound around `LOUD_S`."""
    samples = talk()
    level = np.sqrt(np.convolve(samples**2, np.ones(320) / 320, mode="same"))
    shut = level[: len(level) // frame * frame].reshape(-1, frame).max(axis=1) < 0.003
    samples[: len(shut) * frame][np.repeat(shut, frame)] = 0
    samples[span(LOUD_S - 0.1, 0.26, 16_000)] *= np.float32(0.15)
    return samples


def test_a_soft_packet_lost_between_pauses_of_any_length_is_found() -> None:
    samples = gated(1)
    samples[span(LOUD_S, 0.06, 16_000)] = 0
    (loss,) = losses(samples)
    assert (loss.start, loss.stop, loss.sure) == (16_000, 16_960, True)


@pytest.mark.parametrize(("frame", "length_s"), [(1, 0.055), (320, 0.06)], ids=["other length", "gated in packets"])
def test_the_same_gap_is_no_loss_where_its_length_tells_nothing(frame: int, length_s: float) -> None:
    samples = gated(frame)
    samples[span(LOUD_S, length_s, 16_000)] = 0
    assert losses(samples) == []


def test_the_same_gap_is_no_loss_among_the_closures_of_a_synthesiser() -> None:
    samples = gated(1)
    for start_s, length in ((0.5, 700), (1.0, 810), (1.5, 750), (2.0, 960)):
        samples[span(start_s - 0.1, 0.26, 16_000)] *= np.float32(1.0 if start_s == LOUD_S else 0.1)
        samples[round(start_s * 16_000) :][:length] = 0
    assert losses(samples) == []


def test_a_packet_lost_at_the_onset_of_a_word_is_found() -> None:
    samples = talk()
    level = np.sqrt(np.convolve(samples**2, np.ones(320) / 320, mode="same"))
    samples[level < 0.003] = 0
    samples[15_000:16_000] = as_16_bit(4e-4 * np.random.default_rng(0).standard_normal(1_000))
    samples[16_000:16_960] = 0
    (loss,) = losses(samples)
    assert (loss.start, loss.stop, loss.sure) == (16_000, 16_960, True)


def test_the_closure_of_a_stop_is_no_loss() -> None:
    """Sound decays into true zeros within 15 ms, and a soft burst ends them."""
    samples = talk()
    fade = np.exp(-np.arange(480) / 60)
    samples[16_000:16_480] *= fade.astype(np.float32)
    samples[16_240:16_900] = 0
    samples[16_900:17_380] *= (0.3 * (1 - fade)).astype(np.float32)
    assert losses(as_16_bit(samples)) == []


def test_a_fade_out_and_in_is_no_loss() -> None:
    samples = talk()
    ramp = np.linspace(1, 0, 1_600).astype(np.float32)
    samples[16_000:17_600] *= ramp
    samples[17_600:19_200] = 0
    samples[19_200:20_800] *= ramp[::-1]
    assert losses(as_16_bit(samples)) == []


@pytest.mark.parametrize("frequencies", [(50,), (400,), (1_000,), (425,), (697, 1_209), (941, 1_477)])
def test_periodic_sound_is_no_repetition(frequencies: tuple[int, ...]) -> None:
    time = np.arange(64_000) / 16_000
    tone = np.sum([0.2 * np.sin(2 * np.pi * f * time) for f in frequencies], axis=0)
    burst = tone * ((time > 0.71) & (time < 0.83)) + 1e-4 * np.random.default_rng(0).standard_normal(len(time))
    for samples in (tone, tone + talk(), burst):
        found = losses(as_16_bit(0.7 * samples))
        assert found == [] or (len(frequencies) > 1 and all(loss.tonal for loss in found))


@pytest.mark.parametrize("hertz", [425, 1_000])
@pytest.mark.parametrize("beep_s", [0.045, 0.06, 0.08])
@pytest.mark.parametrize("gap_s", [0.0, 0.05])
def test_a_short_beep_within_speech_is_no_loss(hertz: int, beep_s: float, gap_s: float) -> None:
    time = np.arange(round(beep_s * 16_000)) / 16_000
    beep = 0.3 * np.sin(2 * np.pi * hertz * time) * np.minimum(1.0, np.minimum(time, time[::-1]) / 0.002)
    samples = talk()
    for start in (10_000, 25_000, 40_000, 55_000):
        around = slice(start - round(gap_s * 16_000), start + len(beep) + round(gap_s * 16_000))
        samples[around] *= 0.0 if gap_s else 1.0
        samples[start : start + len(beep)] = beep
    assert [loss for loss in losses(as_16_bit(samples)) if loss.kind in ("repeated", "faded")] == []


@pytest.mark.parametrize("frequencies", [(1_000,), (697, 1_209), (941, 1_477), (440, 480), (400, 450)])
@pytest.mark.parametrize("line", [as_16_bit, lambda sound: decode_mulaw(encode_mulaw(sound))], ids=["linear", "mulaw"])
def test_gaps_between_tones_are_marked(frequencies: tuple[int, ...], line) -> None:
    time = np.arange(4_000) / 8_000
    tone = np.sum([0.1 * np.sin(2 * np.pi * f * time) for f in frequencies], axis=0).astype(np.float32)
    gap = np.zeros(600, np.float32)
    found = losses(line(np.concatenate([talk(8_000), tone, gap, tone[:1_000], gap, tone])), 8_000)
    assert [(loss.tonal, round(loss.stop, -1)) for loss in found] == [(True, 36_600), (True, 38_200)]
    assert [loss.tonal for loss in losses(with_zeros(0.075, 8_000), 8_000)] == [False]


@pytest.mark.parametrize(
    "samples",
    [np.zeros(40_000, np.float32), white_noise(3.0), np.full(40_000, 0.1, np.float32), np.zeros(0, np.float32)],
    ids=["zeros", "noise", "constant", "nothing"],
)
def test_sound_without_edges_has_no_losses(samples: Float32) -> None:
    assert losses(samples) == []


def test_a_steady_voice_has_no_losses() -> None:
    assert losses(as_16_bit(voice(6.0) + white_noise(6.0, level_dbfs=-65))) == []


# --- streams ---------------------------------------------------------------------------------------------------------


def damaged(rate_hz: int, seed: int) -> Float32:
    """Speech with losses of several kinds at random places."""
    rng = np.random.default_rng(seed)
    samples, packet = talk(rate_hz, seed=seed), rate_hz // 50
    for place in rng.integers(packet, len(samples) - 4 * packet, 12):
        kind = rng.integers(3)
        lost = slice(place, place + packet * int(rng.integers(1, 4)))
        if kind == 0:
            samples[lost] = 0
        else:
            fade = 1 if kind == 1 else np.linspace(1, 0, lost.stop - lost.start)
            samples[lost] = as_16_bit(np.resize(samples[place - packet : place], lost.stop - lost.start) * fade)
    return samples


@given(sizes=st.lists(st.integers(1, 9_000), min_size=1, max_size=4), seed=st.integers(0, 5))
@settings(max_examples=25)
def test_losses_do_not_depend_on_how_samples_arrive(sizes: list[int], seed: int) -> None:
    samples = damaged(16_000, seed)
    whole = losses(samples)
    assert len(whole) >= 2
    assert losses(samples, sizes=tuple(sizes)) == whole


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100])
def test_streams_in_one_call_find_what_each_finds_alone(rate_hz: int) -> None:
    streams = [damaged(rate_hz, seed) for seed in range(5)]
    bank = LossBank(rate_hz, len(streams))
    alone = [LossBank(rate_hz) for _ in streams]
    size = bank.grid.piece
    together: list[list[Loss]] = [[] for _ in streams]
    apart: list[list[Loss]] = [[] for _ in streams]
    for pieces in np.stack([behind_the_last(stream, size) for stream in streams], axis=1):
        for row, loss in bank.push(pieces):
            together[row].append(loss)
        for row, single in enumerate(alone):
            apart[row] += [loss for _, loss in single.push(pieces[row : row + 1])]
    assert together == apart
    assert sum(map(len, apart)) >= 10


def test_streams_can_advance_at_their_own_pace() -> None:
    """A call serves any of the streams; the state of the others does not change."""
    bank = LossBank(16_000, 3)
    streams = [behind_the_last(damaged(16_000, seed)[:64_000], bank.grid.piece) for seed in range(3)]
    found: list[list[Loss]] = [[], [], []]
    steps = [(row, turn) for row in (2, 0, 1) for turn in range(len(streams[0]))]
    for row, turn in sorted(steps, key=lambda step: (step[1] * (step[0] + 1), step[0])):
        for place, loss in bank.push(streams[row][turn : turn + 1], np.array([row])):
            assert place == 0
            found[row].append(loss)
    for row, stream in enumerate(streams):
        single = LossBank(16_000)
        expected = [loss for piece in stream for _, loss in single.push(piece[None])]
        assert found[row] == expected


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 16_000, 44_100])
def test_consecutive_pieces_in_one_call_give_what_they_give_one_by_one(rate_hz: int) -> None:
    samples = damaged(rate_hz, 3)
    samples[3 * rate_hz // 2 : 2 * rate_hz] = 0  # a pause, after which the line counts as one that does not send all
    bank, single = LossBank(rate_hz), LossBank(rate_hz)
    pieces = behind_the_last(samples, bank.grid.piece)
    expected = [(row, loss) for row in range(len(pieces)) for _, loss in single.push(pieces[row : row + 1])]
    found: list[tuple[int, Loss]] = []
    for start, stop in ((0, 2), (2, 3), (3, 7), (7, len(pieces))):
        found += [(start + row, loss) for row, loss in bank.push(pieces[start:stop])]
    assert found == expected
    assert len(expected) >= 3


def test_a_call_needs_a_piece_of_each_stream() -> None:
    bank = LossBank(16_000, 2)
    with pytest.raises(ValueError, match="expected a piece of each of 2 streams, got 3"):
        bank.push(np.zeros((3, 2 * bank.grid.piece), np.float32))


def test_a_row_can_serve_another_stream_after_a_reset() -> None:
    bank, fresh = LossBank(16_000), LossBank(16_000)
    for piece in behind_the_last(damaged(16_000, 1)[:32_000], bank.grid.piece):
        bank.push(piece[None])
    bank.reset(0)
    for piece in behind_the_last(damaged(16_000, 2)[:60_000], bank.grid.piece):
        assert bank.push(piece[None]) == fresh.push(piece[None])


def test_memory_does_not_grow() -> None:
    detector = ChannelMeter(16_000)

    def held() -> int:
        parts = [detector, *vars(detector).values()]
        owners = parts + [value for part in parts if hasattr(part, "__dict__") for value in vars(part).values()]
        arrays = {id(v): v.nbytes for o in owners if hasattr(o, "__dict__") for v in vars(o).values()
                  if isinstance(v, np.ndarray)}  # fmt: skip
        return sum(arrays.values())

    sizes = []
    for _ in range(2):
        for seed in range(3):
            detector.push(damaged(16_000, seed))
        sizes.append(held())
    assert sizes[0] == sizes[1]


def test_a_rate_that_no_recording_has_is_rejected() -> None:
    with pytest.raises(InvalidAudio):
        ChannelMeter(4_000)


@settings(max_examples=15)
@given(order=st.lists(st.integers(0, 4), min_size=30, max_size=80), size=st.integers(400, 9_000))
def test_streams_that_share_a_pool_find_what_they_find_alone(order: list[int], size: int) -> None:
    streams = [damaged(16_000, seed) for seed in range(5)]
    pool, found = MeterPool(), [list[Loss]() for _ in streams]
    detectors = [ChannelMeter(16_000, pool=pool) for _ in streams]
    done = [0] * len(streams)
    for index in [*order, *(index for index in range(5) for _ in range(len(streams[0]) // size + 1))]:
        detectors[index].push(streams[index][done[index] : done[index] + size])
        done[index] += size
        if index % 2:  # the others are collected at the end only
            found[index] += detectors[index].collect()
    for index, detector in enumerate(detectors):
        found[index] += detector.finish()
        assert found[index] == losses(streams[index])


def test_a_row_of_a_pool_serves_a_new_stream_once_its_stream_is_gone() -> None:
    pool = MeterPool()
    for seed in range(40):  # more than a bank has rows
        detector = ChannelMeter(8_000, pool=pool)
        detector.push(damaged(8_000, seed % 3)[: 20_000 + 100 * seed])
        assert detector.collect() + detector.finish() == losses(damaged(8_000, seed % 3)[: 20_000 + 100 * seed], 8_000)
        del detector
    assert len(pool._banks[8_000, 0, False]) == 1
