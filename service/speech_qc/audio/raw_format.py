"""Checks what a sender says about audio without a header: `encoding`, `sample_rate` and `channels`."""

from __future__ import annotations

import re
from typing import get_args

from speech_qc.audio import RawFormat, check_rate_hz
from speech_qc.errors import InvalidAudio, ProtocolError
from speech_qc.wire.vocabulary import ChannelMode, RawEncoding

_USUAL_HZ: dict[RawEncoding, int] = {
    "mulaw": 8_000,
    "alaw": 8_000,
    "gsm": 8_000,
    "vox": 8_000,
    "g726": 8_000,
    "g722": 16_000,
}
"""Rate of the encodings that are made for telephony, unless another one is given."""

_G722_HZ = (16_000, 8_000)
"""G.722 has 16 000 samples per second; RTP declares 8000 for historical reasons (RFC 3551, section 4.5.2)."""

_MONO = ("gsm", "vox", "g722", "g726")  # their samples cannot be interleaved
_CHANNELS = re.compile(r"(?P<mode>split|mix)|(?P<count>[1-9]\d{0,2})(,(?P<then>split|mix))?")


def parse_channels(text: str) -> tuple[int | None, ChannelMode]:
    """Parse the option `channels`: `split`, `mix`, or the number of interleaved channels, as in `2` or `2,mix`.

    Returns:
        The number, None if it is not given, and how to inspect the channels.

    Raises:
        ProtocolError: Another value.
    """
    match = _CHANNELS.fullmatch(text.strip())
    if match is None:
        raise ProtocolError(
            f"channels: expected split, mix, or the channels of audio without a header as in 2 or 2,mix; got {text!r}"
        )
    mode: ChannelMode = "mix" if "mix" in (match["mode"], match["then"]) else "split"
    return int(match["count"]) if match["count"] else None, mode


def raw_format(encoding: str | None, sample_rate: int | None, channels: int | None) -> RawFormat | None:
    """Combine the options of audio without a header.

    Args:
        encoding: Encoding of the samples; None for a recording with a header.
        sample_rate: Frames per second; None for the rate that is usual for the encoding.
        channels: Interleaved channels; None for one.

    Returns:
        The format; None if no encoding is given.

    Raises:
        ProtocolError: The encoding is unknown, an option is missing, or one is given for a recording with a header.
    """
    if encoding is None:
        for name, value in (("sample_rate", sample_rate), ("a number of channels", channels)):
            if value is not None:
                raise ProtocolError(
                    f"expected {name} only for audio without a header, got {value} and no encoding: add encoding=…, or "
                    "leave it out for a recording, whose header has it"
                )
        return None
    known = get_args(RawEncoding)
    if encoding not in known:
        raise ProtocolError(f"encoding: expected one of {', '.join(known)}, got {encoding!r}", known=list(known))
    chosen = known[known.index(encoding)]
    rate_hz = _USUAL_HZ.get(chosen) if sample_rate is None else sample_rate
    if rate_hz is None:
        raise ProtocolError(f"expected sample_rate=… with encoding={encoding}, got none: add it, for example 16000")
    try:
        check_rate_hz(rate_hz)
    except InvalidAudio as error:  # the option is wrong, not the audio
        raise ProtocolError(error.message, sample_rate=rate_hz) from error
    if encoding == "g722":
        if rate_hz not in _G722_HZ:
            raise ProtocolError(f"expected a sample rate of 16000 Hz with encoding=g722, got {rate_hz}: leave it out")
        rate_hz = _G722_HZ[0]
    if encoding in _MONO and channels not in (None, 1):
        raise ProtocolError(
            f"expected one channel with encoding={encoding}, got {channels}: send each channel separately"
        )
    return RawFormat(chosen, rate_hz, channels or 1)
