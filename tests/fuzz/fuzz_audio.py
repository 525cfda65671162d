"""Randomly corrupted recordings: a few valid ones of every format, and ways to corrupt them."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np

from media_files import FORMATS, encoded
from rtp_captures import Capture, alaw, encoded_packets, mulaw, sent
from signals import voice, wav_bytes

Mutation = Callable[[bytearray, np.random.Generator], None]

INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
HEAD_BYTES = 120
"""Bytes at the start with the most important fields, which get half of all changes."""


def seeds() -> dict[str, bytes]:
    """Return valid recordings, 0.3 s each."""
    mono = voice(0.3)
    stereo = np.stack([mono, mono[::-1]], axis=1)
    made = {
        f"wav/{kind}": wav_bytes(mono, subtype=kind)
        for kind in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "GSM610")
    }
    made |= {
        "wav/stereo": wav_bytes(stereo),
        "rf64": wav_bytes(mono, container="RF64"),
        "flac": wav_bytes(mono, container="FLAC"),
        "flac/stereo": wav_bytes(stereo, container="FLAC", subtype="PCM_24"),
        "ogg/vorbis": wav_bytes(mono, container="OGG", subtype="VORBIS"),
        "ogg/opus": wav_bytes(mono, container="OGG", subtype="OPUS"),
        "mp3": wav_bytes(mono, container="MP3", subtype="MPEG_LAYER_III"),
        "aiff": wav_bytes(mono, container="AIFF"),
        "au": wav_bytes(mono, container="AU"),
        "caf": wav_bytes(mono, container="CAF"),
        "w64": wav_bytes(mono, container="W64"),
    }
    return made


def media_seeds() -> dict[str, bytes]:
    """Return valid recordings, 0.3 s each, in the formats that only FFmpeg decodes."""
    made = {name: encoded(voice(0.3, rate_hz=one.rate_hz), one) for name, one in FORMATS.items()}
    video = FORMATS["matroska/flac"]
    made["matroska/video"] = encoded(voice(0.3), video, tracks=2, pictures=True)
    made["mp4/video"] = encoded(voice(0.3, rate_hz=48_000), FORMATS["mp4/fragments"], pictures=True)
    return made


def capture_seeds() -> dict[str, bytes]:
    """Return valid packet captures, 0.5 s each."""
    narrow, wide = voice(0.5, rate_hz=8000), voice(0.5)
    talk = sent(mulaw(narrow))
    lossy = [one for i, one in enumerate(talk) if i % 7]
    v6 = sent(alaw(narrow), payload_type=8, source=("2001:db8::1", 4000), target=("2001:db8::2", 4002))
    g722 = sent(encoded_packets("g722", wide, 16_000), payload_type=9, ssrc=9)
    opus = sent(encoded_packets("libopus", voice(0.5, rate_hz=48_000), 48_000), 960, clock_hz=48_000, payload_type=96)
    sdp = (
        b"INVITE sip:b@example.com SIP/2.0\r\n\r\nv=0\r\nc=IN IP4 192.0.2.2\r\n"
        b"m=audio 20000 RTP/AVP 96\r\na=rtpmap:96 opus/48000/2\r\n"
    )
    return {
        "pcap/PCMU": Capture().add(talk).pcap(),
        "pcap/nano": Capture().add(lossy).pcap(nano=True),
        "pcapng/PCMU": Capture().add(lossy).pcapng(),
        "pcap/IPv6": Capture().add(v6).pcap(),
        "pcap/G722": Capture().add(g722).pcap(),
        "pcap/two": Capture().add(talk).add(g722).pcap(),
        "pcap/Opus": Capture().datagram(-0.1, sdp).add(opus).pcap(),
        "pcapng/Opus": Capture().datagram(-0.1, sdp).add(opus).pcapng(),
    }


def _place(data: bytearray, rng: np.random.Generator, room: int = 1) -> int:
    most = max(1, len(data) - room)
    return int(rng.integers(min(HEAD_BYTES, most) if rng.random() < 0.5 else most))


def _flip(data: bytearray, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(1, 9))):
        data[_place(data, rng)] ^= 1 << int(rng.integers(8))


def _overwrite(data: bytearray, rng: np.random.Generator) -> None:
    at = _place(data, rng, 4)
    form = ("<I", ">I", "<H", ">H")[int(rng.integers(4))]
    value = INTERESTING[int(rng.integers(len(INTERESTING)))] & (0xFFFFFFFF if form[1] == "I" else 0xFFFF)
    data[at : at + struct.calcsize(form)] = struct.pack(form, value)


def _noise(data: bytearray, rng: np.random.Generator) -> None:
    at, count = _place(data, rng), int(rng.integers(1, 200))
    data[at : at + count] = rng.bytes(min(count, len(data) - at))


def _cut(data: bytearray, rng: np.random.Generator) -> None:
    del data[_place(data, rng) :]


def _drop(data: bytearray, rng: np.random.Generator) -> None:
    at = _place(data, rng)
    del data[at : at + int(rng.integers(1, 300))]


def _double(data: bytearray, rng: np.random.Generator) -> None:
    at, count = _place(data, rng), int(rng.integers(1, 400))
    data[at:at] = data[at : at + count]


def _append(data: bytearray, rng: np.random.Generator) -> None:
    data += bytes(data) if rng.random() < 0.5 else rng.bytes(int(rng.integers(1, 5000)))


MUTATIONS: tuple[Mutation, ...] = (_flip, _overwrite, _overwrite, _noise, _cut, _drop, _double, _append)


def spoiled(number: int, good: dict[str, bytes]) -> tuple[str, bytes]:
    """Return the corrupted recording with this number; always the same one.

    Returns:
        The original format, and the bytes.
    """
    rng = np.random.default_rng([number, 20_02])
    name = list(good)[number % len(good)]
    data = bytearray(good[name])
    for _ in range(1 + int(rng.geometric(0.5))):
        if data:
            MUTATIONS[int(rng.integers(len(MUTATIONS)))](data, rng)
    if rng.random() < 0.05:  # the header of one format with the body of another
        other = good[list(good)[int(rng.integers(len(good)))]]
        data[:HEAD_BYTES] = other[:HEAD_BYTES]
    return name, bytes(data)
