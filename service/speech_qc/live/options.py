"""The options that a client requests for its stream, parsed strictly from the query string.

A misspelt option would silently take its default, and a wrong rate leads to wrong results. So every name and value is
checked, and an error message says what is accepted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast, get_args

from speech_qc.audio.pcm import LIVE_ENCODINGS
from speech_qc.calls.legs import LegInfo
from speech_qc.contract import ModelContract
from speech_qc.errors import ProtocolError
from speech_qc.pipeline.documents import choose_labels
from speech_qc.scoring import Profile, Profiles
from speech_qc.wire.option_names import leg_names, single_options
from speech_qc.wire.vocabulary import STREAM_VENDOR, Encoding, Position

MIN_RATE_HZ, MAX_RATE_HZ = 8_000, 48_000
MIN_EMIT_MS, MAX_EMIT_MS = 20, 1_000
MAX_CHANNELS = 2
MAX_NAME_CHARS = 128

KNOWN = ("encoding", "sample_rate", "channels", "emit_ms", "labels", "profile", "session_name", "position",
         "call", "leg", "trunk")  # fmt: skip
"""Names of all options."""


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """The options of a stream.

    Attributes:
        encoding: One of `decode.LIVE_ENCODINGS`.
        rate_hz: Samples per second of each channel.
        channels: Number of interleaved channels.
        emit_ms: Audio between two `scores` messages, a multiple of the frame.
        labels: Labels to send, in the model's order.
        profile: Limits for the verdict.
        profile_name: Name of the profile.
        session_name: The client's name for the stream, sent back to it.
        legs: The legs of a call that the channels are, in their order; empty if they are not.
        position: Where audio belongs in time: after the audio before it, or where it arrives.
    """

    encoding: Encoding
    rate_hz: int
    channels: int
    emit_ms: int
    labels: tuple[str, ...]
    profile: Profile
    profile_name: str
    session_name: str | None
    position: Position = "samples"
    legs: tuple[LegInfo, ...] = ()

    @property
    def is_16_bit(self) -> bool:
        """Whether all samples are multiples of 1/32768 within full scale."""
        return self.encoding != "float32"

    def changed(
        self,
        contract: ModelContract,
        profiles: Profiles,
        *,
        labels: Sequence[str] | None,
        emit_ms: int | None,
        profile: str | None,
    ) -> StreamOptions:
        """Return these options with changes; None leaves a value unchanged.

        Raises:
            ProtocolError: A label or profile does not exist, or emit_ms is out of bounds.
        """
        return replace(
            self,
            labels=self.labels if labels is None else choose_labels(contract, ",".join(labels)),
            emit_ms=self.emit_ms if emit_ms is None else _checked_emit_ms(emit_ms, contract),
            profile=self.profile if profile is None else profiles.get(profile),
            profile_name=self.profile_name if profile is None else profile,
        )


def parse_options(
    query: Iterable[tuple[str, str]], contract: ModelContract, profiles: Profiles, default_profile: str
) -> StreamOptions:
    """Parse the query string of a stream.

    Args:
        query: Decoded names and values.
        contract: Contract of the model that will score the stream.
        profiles: Verdict profiles to choose from.
        default_profile: Name of the default profile.

    Raises:
        ProtocolError: An option does not exist, is repeated, or has an invalid value.
    """
    given = single_options(query, KNOWN)
    asked = given.get("encoding", "linear16")
    encoding = next((known for known in LIVE_ENCODINGS if known == asked), None)
    if encoding is None:
        raise ProtocolError(
            f"encoding: expected one of {', '.join(LIVE_ENCODINGS)}, got {asked[:40]!r}: name the one you send",
            option="encoding",
            known=list(LIVE_ENCODINGS),
        )
    name = given.get("session_name") or None
    if name is not None and (len(name) > MAX_NAME_CHARS or not name.isprintable()):
        raise ProtocolError(
            f"session_name: expected at most {MAX_NAME_CHARS} printable characters, got {name[:40]!r} of {len(name)}: "
            "shorten it, or leave out control characters",
            option="session_name",
        )
    profile = given.get("profile") or default_profile
    rate_hz = _whole(given, "sample_rate", 16_000, MIN_RATE_HZ, MAX_RATE_HZ)
    channels = _whole(given, "channels", 1, 1, MAX_CHANNELS)
    return StreamOptions(
        encoding=encoding,
        rate_hz=rate_hz,
        channels=channels,
        emit_ms=_checked_emit_ms(_whole(given, "emit_ms", 100, MIN_EMIT_MS, MAX_EMIT_MS), contract),
        labels=choose_labels(contract, given.get("labels")),
        profile=profiles.get(profile),
        profile_name=profile,
        session_name=name,
        position=_position(given.get("position", "samples")),
        legs=_legs(given, channels, rate_hz, name),
    )


def _legs(given: dict[str, str], channels: int, rate_hz: int, name: str | None) -> tuple[LegInfo, ...]:
    """Read which call the channels belong to, and as which legs."""
    call_id, names, trunk = given.get("call"), given.get("leg"), given.get("trunk")
    if call_id is None and names is None and trunk is None:
        return ()
    if not call_id or not names:
        raise ProtocolError(
            "call and leg: expected both, as in call=4711&leg=agent, got one of them: name the call and the leg",
            option="leg" if call_id else "call",
        )
    for option, text in (("call", call_id), ("trunk", trunk or "-")):
        if len(text) > MAX_NAME_CHARS or not text.isprintable():
            raise ProtocolError(
                f"{option}: expected at most {MAX_NAME_CHARS} printable characters, got {text[:40]!r} of {len(text)}: "
                "shorten it, or leave out control characters",
                option=option,
            )
    return tuple(
        LegInfo(call_id, leg, STREAM_VENDOR, rate_hz, trunk or None, name) for leg in leg_names(names, "leg", channels)
    )


def _position(text: str) -> Position:
    for known in get_args(Position):
        if text == known:
            return cast(Position, known)
    raise ProtocolError(
        f"position: expected {' or '.join(get_args(Position))}, got {text[:40]!r}: use arrival if you send nothing "
        "while there is no audio",
        option="position",
        known=list(get_args(Position)),
    )


def _whole(given: dict[str, str], name: str, default: int, low: int, high: int) -> int:
    text = given.get(name)
    if text is None:
        return default
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
    if value is None or not low <= value <= high:
        raise ProtocolError(
            f"{name}: expected a whole number from {low} to {high}, got {text[:40]!r}: correct the query",
            option=name,
            min=low,
            max=high,
        )
    return value


def _checked_emit_ms(value: int, contract: ModelContract) -> int:
    frame_ms = round(contract.features.frame_hop_s * 1000)
    if not MIN_EMIT_MS <= value <= MAX_EMIT_MS or value % frame_ms:
        raise ProtocolError(
            f"emit_ms: expected a multiple of {frame_ms} from {MIN_EMIT_MS} to {MAX_EMIT_MS}, got {value}: "
            "frames cannot be split",
            option="emit_ms",
            min=MIN_EMIT_MS,
            max=MAX_EMIT_MS,
            multiple_of=frame_ms,
        )
    return value
