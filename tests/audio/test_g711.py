"""G.711 tables against libsndfile's, which are the reference that other tools use."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from speech_qc.audio.g711 import Codes, decode_alaw, decode_mulaw, encode_alaw, encode_mulaw

LAWS = [
    pytest.param("ULAW", 7, decode_mulaw, encode_mulaw, id="mulaw"),
    pytest.param("ALAW", 6, decode_alaw, encode_alaw, id="alaw"),
]
EVERY_CODE = bytes(range(256))
EVERY_INT16 = np.arange(-32768, 32768, dtype=np.int16)

Decode = Callable[[Codes], NDArray[np.float32]]
Encode = Callable[[NDArray[np.float32]], NDArray[np.uint8]]


def wav_of_codes(tag: int, codes: bytes) -> bytes:
    form = struct.pack("<HHIIHH", tag, 1, 8000, 8000, 1, 8)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(codes)) + codes
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(("subtype", "tag", "decode", "encode"), LAWS)
def test_every_code_decodes_as_libsndfile_does(subtype: str, tag: int, decode: Decode, encode: Encode) -> None:
    expected, _ = soundfile.read(io.BytesIO(wav_of_codes(tag, EVERY_CODE)), dtype="float32")
    decoded = decode(EVERY_CODE)
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize(("subtype", "tag", "decode", "encode"), LAWS)
def test_every_int16_encodes_as_libsndfile_does(subtype: str, tag: int, decode: Decode, encode: Encode) -> None:
    file = io.BytesIO()
    soundfile.write(file, EVERY_INT16, 8000, format="WAV", subtype=subtype)
    written = file.getvalue()
    start = written.index(b"data") + 8
    codes = encode((EVERY_INT16 / 32768).astype(np.float32))
    assert codes.dtype == np.uint8
    assert codes.tobytes() == written[start : start + 65536]


@pytest.mark.parametrize(("subtype", "tag", "decode", "encode"), LAWS)
def test_decoded_codes_encode_to_themselves(subtype: str, tag: int, decode: Decode, encode: Encode) -> None:
    codes = np.frombuffer(EVERY_CODE, np.uint8)
    again = encode(decode(codes))
    if subtype == "ULAW":
        codes = np.where(codes == 0x7F, 0xFF, codes)  # two codes for zero; the positive one is sent
    np.testing.assert_array_equal(again, codes)


@pytest.mark.parametrize(("subtype", "tag", "decode", "encode"), LAWS)
def test_samples_beyond_full_scale_get_the_outermost_code(
    subtype: str, tag: int, decode: Decode, encode: Encode
) -> None:
    codes = encode(np.array([1.0, -1.0, 7.0, -7.0], np.float32))
    assert codes[0] == codes[2]
    assert codes[1] == codes[3]
    np.testing.assert_array_equal(decode(codes)[:2], [decode(EVERY_CODE).max(), decode(EVERY_CODE).min()])


@pytest.mark.parametrize(("subtype", "tag", "decode", "encode"), LAWS)
def test_bytes_views_and_arrays_decode_alike(subtype: str, tag: int, decode: Decode, encode: Encode) -> None:
    array = np.frombuffer(EVERY_CODE, np.uint8)
    np.testing.assert_array_equal(decode(memoryview(EVERY_CODE)), decode(EVERY_CODE))
    np.testing.assert_array_equal(decode(array.reshape(64, 4)), decode(array).reshape(64, 4))
