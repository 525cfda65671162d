"""Bytes to samples, and the warnings of the input checks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signals import voice, white_noise
from speech_qc.audio.g711 import decode_alaw, decode_mulaw, encode_alaw, encode_mulaw
from speech_qc.audio.sample_decoder import SampleDecoder
from speech_qc.errors import InvalidAudio
from speech_qc.live.input_checks import LEVEL_CHECK_S, REPEAT_S, InputChecks
from speech_qc.pipeline.channel_meter import ChannelMeter
from speech_qc.wire.vocabulary import Encoding

CODES = bytes(np.random.default_rng(5).integers(0, 256, 4000, dtype=np.uint8))


def decoded(encoding: Encoding, channels: int, messages: list[bytes], piece: int = 100) -> np.ndarray:
    decoder = SampleDecoder(encoding, channels, piece)
    pieces = [np.stack(p) for message in messages for p in decoder.pieces(message)]
    assert all(piece >= p.shape[1] >= 1 for p in pieces)
    return np.concatenate(pieces, axis=1)


@pytest.mark.parametrize(
    ("encoding", "data", "expected"),
    [
        ("linear16", CODES, np.frombuffer(CODES, "<i2").astype(np.float32) / 32768),
        ("mulaw", CODES, decode_mulaw(CODES)),
        ("alaw", CODES, decode_alaw(CODES)),
        ("float32", white_noise(0.1).tobytes(), white_noise(0.1)),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
@settings(max_examples=20)
@given(cuts=st.lists(st.integers(0, 4000), max_size=12))
def test_samples_do_not_depend_on_where_messages_are_cut(encoding, data, expected, channels, cuts):
    edges = [0, *sorted(cuts), len(data)]
    messages = [data[a:b] for a, b in pairwise(edges)]
    found = decoded(encoding, channels, messages)
    np.testing.assert_array_equal(found, expected[: len(expected) // channels * channels].reshape(-1, channels).T)


def test_bytes_of_an_unfinished_sample_are_counted():
    decoder = SampleDecoder("linear16", 2, 100)
    assert [len(p[0]) for p in decoder.pieces(bytes(11))] == [2]
    assert len(decoder.rest) == 3
    assert [len(p[0]) for p in decoder.pieces(b"\x00")] == [1]
    assert decoder.rest == b""


def test_floats_that_are_no_numbers_are_refused():
    with pytest.raises(InvalidAudio, match="encoding"):
        list(SampleDecoder("float32", 1, 100).pieces(np.array([np.inf], "<f4").tobytes()))


def paced(watch: InputChecks, seconds: float, pace: float, start_s: float = 0.0, piece_s: float = 0.1) -> list[str]:
    """Send audio of this length at this pace; return the warning codes."""
    codes: list[str] = []
    for number in range(round(seconds / piece_s)):
        warn = watch.arrived(piece_s, start_s + number * piece_s / pace)
        if warn is not None:
            codes.append(warn.code)
    return codes


@pytest.mark.parametrize("piece_s", [0.02, 0.1, 1.0])
def test_real_time_is_no_reason_to_warn(piece_s):
    assert paced(InputChecks(16_000, 1, "linear16"), 120.0, 1.0, piece_s=piece_s) == []


def test_jitter_and_a_stall_that_is_made_up_for_are_no_reason_to_warn():
    watch = InputChecks(16_000, 1, "linear16")
    rng = np.random.default_rng(1)
    said = [watch.arrived(0.1, n * 0.1 + rng.uniform(0, 0.3)) for n in range(300)]
    said += [watch.arrived(0.1, max(n * 0.1, 32.0)) for n in range(300, 600)]
    assert [warn for warn in said if warn] == []


def test_half_the_rate_is_too_slow_and_said_once_while_it_lasts():
    watch = InputChecks(16_000, 1, "linear16")
    assert paced(watch, 100.0, 0.5) == ["too_slow"]


def test_twice_the_rate_is_too_fast():
    assert paced(InputChecks(8_000, 1, "mulaw"), 60.0, 2.0) == ["too_fast"]


def test_who_says_keep_alive_may_be_slow():
    watch = InputChecks(16_000, 1, "linear16")
    codes = []
    for n in range(200):
        watch.paused()
        codes += [w.code for w in [watch.arrived(0.1, n * 0.3)] if w]
    assert codes == []


def listen(watch: InputChecks, samples: np.ndarray, rate_hz: int = 16_000) -> list[str]:
    """Pass samples to a channel in pieces of 100 ms, with checks when they are due."""
    meter, said = ChannelMeter(rate_hz), []
    for start in range(0, len(samples), rate_hz // 10):
        piece, now_s = samples[start : start + rate_hz // 10], start / rate_hz
        meter.push(piece)
        said += watch.check_samples(0, piece, float(np.mean(np.square(piece))), now_s)
        if watch.levels_due(0):
            said += watch.check_levels(0, meter.result(), meter.samples, now_s)
    return [warn.code for warn in said]


def test_speech_is_no_reason_to_warn():
    assert listen(InputChecks(16_000, 1, "linear16"), voice(60.0) + white_noise(60.0, level_dbfs=-50)) == []


def test_silence_is_said_after_ten_seconds_and_again_when_it_comes_back_later():
    watch = InputChecks(16_000, 1, "linear16")
    nothing, speech = np.zeros(16_000 * 12, np.float32), voice(REPEAT_S)
    assert listen(watch, nothing[: 16_000 * 9]) == []
    assert listen(InputChecks(16_000, 1, "linear16"), np.concatenate([nothing, speech, nothing])) == [
        "silence",
        "silence",
    ]


def test_clipping_is_said():
    cut_off = np.clip(8 * voice(LEVEL_CHECK_S * 2), -0.9, 0.9).astype(np.float32)
    assert listen(InputChecks(16_000, 1, "linear16"), cut_off) == ["clipping"]


def test_telephone_speech_declared_as_48_khz_is_said():
    import soxr

    upsampled = soxr.resample(voice(45.0, rate_hz=8_000), 8_000, 48_000).astype(np.float32)
    assert listen(InputChecks(48_000, 1, "linear16"), upsampled, 48_000) == ["rate_mismatch"]


@pytest.mark.parametrize(("sent", "declared"), [("mulaw", "linear16"), ("alaw", "linear16"), ("linear16", "mulaw")])
def test_a_wrong_encoding_is_said(sent, declared):
    speech = voice(10.0, rate_hz=8_000) + white_noise(10.0, level_dbfs=-45, rate_hz=8_000)
    coded = {
        "mulaw": lambda: encode_mulaw(speech).tobytes(),
        "alaw": lambda: encode_alaw(speech).tobytes(),
        "linear16": lambda: (speech * 32767).astype("<i2").tobytes(),
    }[sent]()
    wrong = decoded(declared, 1, [coded])[0]
    right = decoded(sent, 1, [coded])[0]
    assert "encoding_mismatch" in listen(InputChecks(8_000, 1, declared), wrong, 8_000)
    assert listen(InputChecks(8_000, 1, sent), right, 8_000) == []
