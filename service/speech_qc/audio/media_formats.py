"""The formats that FFmpeg reads for us: how to recognise them, and which of its demuxers and decoders may be used.

FFmpeg knows several hundred formats, some of which open other files or addresses (playlists). Here each format is
recognised by its first bytes, and only its own demuxer is tried.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import BinaryIO

from speech_qc.wire.vocabulary import RawEncoding

_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (rb"\x1a\x45\xdf\xa3.*webm", "matroska", "webm"),
    (rb"\x1a\x45\xdf\xa3", "matroska", "matroska"),
    (rb"\x00...ftyp3g", "mov", "3gp"),
    (rb"\x00...ftypqt", "mov", "mov"),
    (rb"\x00...ftyp", "mov", "mp4"),
    (rb"\x00...(moov|mdat|wide|free|skip|pnot)", "mov", "mov"),
    (rb"\xff[\xf0\xf1\xf8\xf9]", "aac", "aac"),
    (rb"V[\xe0-\xff]", "loas", "loas"),
    (rb"#!AMR", "amr", "amr"),
    (rb"#!iLBC", "ilbc", "ilbc"),
    (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf", "asf"),
    (rb"RIFF....AVI ", "avi", "avi"),
    (rb"RIFF....QLCM", "qcp", "qcp"),
    (rb"FLV\x01", "flv", "flv"),
    (rb"\x00\x00\x01\xba", "mpeg", "mpeg"),
    (rb"G[\x00-\x5f].[\x10-\x3f]", "mpegts", "mpegts"),
    (rb"\x06\x0e\x2b\x34\x02\x05\x01\x01", "mxf", "mxf"),
    (rb"\x0b\x77...[\x00-\x57]", "ac3", "ac3"),
    (rb"\x0b\x77", "eac3", "eac3"),
    (rb"wvpk", "wv", "wavpack"),
    (rb"MAC ", "ape", "ape"),
    (rb"TTA1", "tta", "tta"),
    (rb"[\x02\x03]ds[s2]", "dss", "dss"),
    (rb"\.RMF|\.ra\xfd", "rm", "realaudio"),
)
"""First bytes, FFmpeg's demuxer, and the name of the container in `AudioInfo.encoding`."""

_AFTER_LIBSNDFILE: tuple[tuple[bytes, str, str], ...] = (
    (rb"(RIFF|RF64|BW64)....WAVE", "wav", "wav"),
    (rb"riff\x2e\x91\xcf\x11", "w64", "w64"),
    (rb"OggS", "ogg", "ogg"),
    (rb"caff", "caf", "caf"),
    (rb"FORM....AIF[FC]", "aiff", "aiff"),
    (rb"\.snd", "au", "au"),
)
"""Containers that libsndfile reads with some codecs and FFmpeg with more."""

_TEXT = re.compile(rb"[\t\r\n -~]+\Z")

_CODECS = """
8svx_exp 8svx_fib aac aac_latm ac3 acelp.kelvin adpcm_adx adpcm_ct adpcm_g722 adpcm_g726 adpcm_g726le adpcm_ima_amv
adpcm_ima_oki adpcm_ima_qt adpcm_ima_wav adpcm_ima_ws adpcm_ms adpcm_sbpro_2 adpcm_sbpro_3 adpcm_sbpro_4 adpcm_swf
adpcm_yamaha alac als amrnb amrwb ape atrac3 atrac3al atrac3plus atrac3plusal comfortnoise cook dca dss_sp dvaudio eac3
evrc flac g722 g723_1 g726 g726le g728 g729 gsm gsm_ms ilbc imc libopencore_amrnb libopencore_amrwb libopus mace3 mace6
mlp mp1 mp1float mp2 mp2float mp3 mp3adu mp3adufloat mp3float mp3on4 mp3on4float msnsiren nellymoser opus pcm_alaw
pcm_bluray pcm_dvd pcm_f32be pcm_f32le pcm_f64be pcm_f64le pcm_mulaw pcm_s16be pcm_s16be_planar pcm_s16le
pcm_s16le_planar pcm_s24be pcm_s24le pcm_s24le_planar pcm_s32be pcm_s32le pcm_s32le_planar pcm_s8 pcm_s8_planar
pcm_u16be pcm_u16le pcm_u24be pcm_u24le pcm_u32be pcm_u32le pcm_u8 qcelp qdm2 qdmc ralf real_144 real_288 s302m sipr
siren speex tak truehd truespeech tta vorbis wavpack wmalossless wmapro wmav1 wmav2 wmavoice
"""
CODECS: tuple[str, ...] = tuple(_CODECS.split())
"""FFmpeg's decoders that may be used: those of recordings, none of pictures, games or experiments."""

SAMPLE_FORMATS = ("u8", "s16", "s32", "s64", "flt", "dbl", "u8p", "s16p", "s32p", "s64p", "fltp", "dblp")
"""FFmpeg's sample formats; those that end in `p` are planar."""

DECLARES_LENGTH = frozenset({"matroska", "mov", "asf", "avi", "ogg", "caf", "aiff", "wv", "tta", "ape"})
"""Demuxers whose length is what the container says; for the others, FFmpeg estimates it from the bit rate."""

HAS_TIMESTAMPS = frozenset({"matroska", "mov", "asf", "flv", "mpegts", "mpeg"})
"""Demuxers whose timestamps are in the file, so that gaps between them mean sound that is not there."""

RAW_DEMUXERS: dict[RawEncoding, tuple[str, tuple[tuple[str, str], ...]]] = {
    "g722": ("g722", ()),
    "g726": ("g726le", (("code_size", "4"),)),  # 32 kbit/s, packed as in RTP (RFC 3551)
}
"""FFmpeg's reader of each encoding without a header, with its options."""

_WAV_CODECS = {
    0x0022: "TrueSpeech", 0x0028: "APTX", 0x0041: "G.728", 0x0042: "G.723.1", 0x0045: "G.726", 0x0050: "MPEG layer 2",
    0x0055: "MP3", 0x0064: "G.726", 0x0065: "G.722", 0x0083: "G.729", 0x0092: "Dolby AC-3 over S/PDIF", 0x00FF: "AAC",
    0x0111: "G.723.1", 0x0130: "ACELP.net", 0x0133: "G.729A", 0x0160: "WMA 1", 0x0161: "WMA 2", 0x0162: "WMA Pro",
    0x0163: "WMA Lossless", 0x028E: "Siren", 0x028F: "G.722", 0x0401: "Indeo Audio", 0x1600: "AAC (ADTS)",
    0x1601: "AAC", 0x1602: "AAC (LATM)", 0x1610: "HE-AAC", 0x2000: "AC-3", 0x2001: "DTS", 0x674F: "Ogg Vorbis",
    0xA106: "AAC", 0xA109: "Speex", 0xF1AC: "FLAC",
}  # fmt: skip
"""Names of WAV format tags (RFC 2361 and later registrations), for error messages."""

_SEARCHED_BYTES = 1 << 20  # at the start and at the end of a recording, for the name of its codec


@dataclass(frozen=True, slots=True)
class MediaFormat:
    """A format that FFmpeg reads.

    Args:
        demuxer: FFmpeg's name of its reader; no other is tried.
        container: Name of the container.
        options: FFmpeg's options for the demuxer, as name and text; for audio without a header, for example.
    """

    demuxer: str
    container: str
    options: tuple[tuple[str, str], ...] = ()


def find_media(head: bytes) -> MediaFormat | None:
    """Recognise a format that only FFmpeg reads.

    Args:
        head: The first bytes, 24 or more unless the recording is shorter; 64 tell WebM from other Matroska files.
    """
    return None if _TEXT.match(head[:24]) else _match(_SIGNATURES, head)


def find_second_chance(file: BinaryIO) -> MediaFormat | None:
    """Recognise a format of which libsndfile may reject a recording that FFmpeg reads; moves the position."""
    file.seek(0)
    head = file.read(24)
    if head[:3] == b"ID3" and len(head) >= 10:
        file.seek(10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]))  # seven bits per byte
        found = find_media(file.read(24))
        return found if found is not None and found.demuxer == "aac" else None
    return _match(_AFTER_LIBSNDFILE, head)


def _match(signatures: tuple[tuple[bytes, str, str], ...], head: bytes) -> MediaFormat | None:
    for pattern, demuxer, container in signatures:
        if re.match(pattern, head, re.DOTALL):
            return MediaFormat(demuxer, container)
    return None


def codec_names(file: BinaryIO, demuxer: str) -> str:
    """Name the codecs in a recording for which FFmpeg has no decoder, as far as they can be found.

    Returns:
        For example `0x1234`, `Indeo Audio (0x0401)`, `FourCC 'ac-4'` or `A_UNKNOWN`; empty if there is none.
    """
    file.seek(0)
    content = file.read(_SEARCHED_BYTES)
    if demuxer in ("wav", "w64"):
        start = content.find(b"fmt ") + (8 if demuxer == "wav" else 24)
        tag = int.from_bytes(content[start : start + 2], "little")
        return f"{_WAV_CODECS[tag]} (0x{tag:04X})" if tag in _WAV_CODECS else f"format tag 0x{tag:04X}"
    file.seek(max(len(content), file.seek(0, 2) - _SEARCHED_BYTES))
    content += file.read(_SEARCHED_BYTES)
    if demuxer == "mov":
        # A sample description: size, 'stsd', version, count, size of the first entry, its FourCC, six zeros.
        codes = re.findall(rb"stsd\0{4}.{4}.{4}([ -~]{4})\0{6}", content, re.DOTALL)
        return ", ".join(f"FourCC {code.decode()!r}" for code in dict.fromkeys(codes))
    if demuxer == "matroska":
        ids = (  # each is an element: 0x86, its length, the text
            content[match.start() + 2 : match.start() + 2 + (content[match.start() + 1] & 0x7F)]
            for match in re.finditer(rb"\x86[\x82-\xbf]A_", content)
        )
        return ", ".join(name.decode("ascii", "replace") for name in dict.fromkeys(ids))
    return ""
