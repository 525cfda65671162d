"""What the messages of every vendor mean, and what a vendor's module has to do."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, cast

import numpy as np
import orjson

from speech_qc.audio.packet_decoders import PacketCodec
from speech_qc.errors import ProtocolError, SpeechQCError, UnsupportedFormat
from speech_qc.wire.vocabulary import Encoding, GapKind, Vendor

MIN_RATE_HZ, MAX_RATE_HZ = 8_000, 48_000
MAX_OTHERS = 32
"""Further values in a URL that are kept."""

MAX_TEXT = 128
"""Characters of a name or value that a sender gives; more is cut off."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

PARAMETERS = ("call", "leg", "trunk", "name", "profile")
"""What the URL or the sender's own parameters may say about a leg."""


@dataclass(frozen=True, slots=True)
class LegFormat:
    """One leg and the format of its audio.

    Attributes:
        leg: Its name within the call.
        encoding: How its samples are encoded.
        rate_hz: Its rate.
        called: Its name for people and documents, if that is another one.
        packets: Codec of its payloads, each a packet, if they are not samples; `encoding` then does not matter.
    """

    leg: str
    encoding: Encoding
    rate_hz: int
    called: str | None = None
    packets: PacketCodec | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """The call begins, or a leg joins it.

    Attributes:
        call_id: Which call.
        legs: Legs that are known now.
        metadata: What the sender says about the call, unmasked.
        trunk: The line it came in by.
        name: A name for people.
        profile: Name of the verdict profile.
    """

    call_id: str
    legs: Sequence[LegFormat]
    metadata: Mapping[str, str] = field(default_factory=dict)
    trunk: str | None = None
    name: str | None = None
    profile: str | None = None


@dataclass(frozen=True, slots=True)
class Audio:
    """Audio of one leg.

    Attributes:
        leg: Which leg.
        payload: Samples in the leg's encoding, or a packet.
        position: The sender's position of its first sample, in samples from any origin; None to go by arrival.
        sequence: Number of the packet among those of the leg, if the sender counts them.
    """

    leg: str
    payload: bytes
    position: int | None = None
    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys were pressed."""

    leg: str | None
    digits: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Audio of all legs is missing, as the sender declares."""

    seconds: float
    kind: GapKind


@dataclass(frozen=True, slots=True)
class Reply:
    """What to send back."""

    text: bytes


@dataclass(frozen=True, slots=True)
class Stopped:
    """The sender has ended the call."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """A message that means nothing to us."""


Clock = Literal["position", "arrival", "contiguous"]
Item = Started | Audio | Keys | Pause | Reply | Stopped | Ignored


@dataclass(frozen=True, slots=True)
class Asked:
    """What the URL asks for; a vendor's own start message adds what is missing here.

    Attributes:
        call: Id of the call, `?call=`.
        leg: Name of the leg, `?leg=`.
        trunk: The line, `?trunk=`.
        name: A name for people, `?name=`.
        profile: Verdict profile, `?profile=`.
        rate_hz: Rate of audio whose protocol does not say it, `?sample_rate=`.
        channels: The same for the number of channels, `?channels=`.
        others: Everything else in the query.
        session: Id of this connection: the call's id if nothing else gives one.
        headers: Headers of the upgrade, by name in lower case.
    """

    session: str
    call: str | None = None
    leg: str | None = None
    trunk: str | None = None
    name: str | None = None
    profile: str | None = None
    rate_hz: int | None = None
    channels: int = 1
    others: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, query: Iterable[tuple[str, str]], headers: Mapping[str, str], session: str) -> Asked:
        """Read the query and the headers of an upgrade.

        Raises:
            ProtocolError: `sample_rate` or `channels` cannot be used.
        """
        given: dict[str, str] = {}
        for name, value in query:
            given.setdefault(name, value)
        rate, channels = given.pop("sample_rate", None), given.pop("channels", "1")
        if channels not in ("1", "2"):
            raise ProtocolError(f"channels: expected 1 or 2, got {channels[:40]!r}: correct the URL")
        if rate is not None and not (rate.isascii() and rate.isdigit() and len(rate) < 7):
            raise ProtocolError(f"sample_rate: expected a whole number, got {rate[:40]!r}: correct the URL")
        known = {name: given.pop(name, None) or None for name in PARAMETERS}
        others = dict(list(given.items())[:MAX_OTHERS])
        return cls(
            session,
            **known,
            rate_hz=None if rate is None else int(rate),
            channels=int(channels),
            others=others,
            headers=headers,
        )

    def without(self, names: Collection[str]) -> Asked:
        """Return the same, but with nothing asked under these names."""
        dropped: dict[str, Any] = dict.fromkeys(name for name in PARAMETERS if name in names)
        return replace(self, **dropped)

    def started(self, legs: Sequence[LegFormat], metadata: Mapping[str, Any], call_id: str | None = None) -> Started:
        """Return the start of the call; the URL takes precedence, then the sender's own parameters of these names."""
        given = {_plain(str(name)): _plain(str(value)) for name, value in metadata.items() if value is not None}
        given |= {_plain(name): _plain(value) for name, value in self.others.items()}

        def choose(asked: str | None, name: str) -> str | None:
            own = given.pop(name, None)
            return _plain(asked) if asked else own

        call = choose(self.call, "call") or _plain(call_id or self.session)
        leg = choose(self.leg, "leg")
        if leg is not None and len(legs) == 1:
            legs = [replace(legs[0], called=leg)]
        return Started(
            call,
            legs,
            trunk=choose(self.trunk, "trunk"),
            name=choose(self.name, "name"),
            profile=choose(self.profile, "profile"),
            metadata=given,
        )


def _plain(text: str) -> str:
    """Return text that names something in documents, log lines and databases: none of them holds a NUL, say."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text[:MAX_TEXT])


class VendorProtocol:
    """One connection of a vendor; subclasses read its messages.

    Args:
        asked: What the URL asks for.
    """

    vendor: ClassVar[Vendor]
    clock: Clock = "position"
    """Where audio belongs in time: at the sender's position, where it arrives, or after the audio before it."""
    ordered: bool = True
    """Whether packets arrive in order."""
    takes_events: ClassVar[bool] = False
    """Whether `event` returns messages that the vendor takes."""
    closes_itself: ClassVar[bool] = False
    """Whether a peer that was told by `refusal` ends the session and closes the connection."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked

    @property
    def name(self) -> Vendor:
        """The vendor, as far as it is known."""
        return self.vendor

    def text(self, message: bytes) -> Sequence[Item]:
        """Read a text message.

        Raises:
            ProtocolError: The vendor sends no such message.
            UnsupportedFormat: Its audio cannot be scored.
        """
        raise ProtocolError(f"expected binary messages from {self.name}, got text of {len(message)} bytes")

    def binary(self, message: bytes) -> Sequence[Item]:
        """Read a binary message; see `text`."""
        raise ProtocolError(f"expected text messages from {self.name}, got {len(message)} bytes of binary data")

    def event(self, body: Mapping[str, Any]) -> bytes | None:  # noqa: ARG002  # for vendors that take none
        """Return a result as the vendor takes it; None if it takes none."""
        return None

    def refusal(self, error: SpeechQCError) -> list[bytes]:  # noqa: ARG002
        """Return the messages that precede a close because of an error."""
        return []


def parse_object(message: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ProtocolError: It is none.
    """
    try:
        found = orjson.loads(message)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ProtocolError(f"expected a JSON object, got {len(message)} bytes of other text")
    return cast(dict[str, Any], found)


def object_in(parent: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return the object under the first of these names that holds one; empty if none does."""
    for name in names:
        if isinstance(found := parent.get(name), dict):
            return cast(dict[str, Any], found)
    return {}


def text_in(parent: Mapping[str, Any], *names: str) -> str | None:
    """Return the text or number under the first of these names that holds one, as text."""
    for name in names:
        found = parent.get(name)
        if isinstance(found, str | int | float) and not isinstance(found, bool) and found != "":
            return str(found)[:MAX_TEXT]
    return None


def whole_in(parent: Mapping[str, Any], *names: str) -> int | None:
    """Return the whole number under the first of these names that holds one, as a number or as text."""
    for name in names:
        found = parent.get(name)
        if isinstance(found, int) and not isinstance(found, bool):
            return found if abs(found) < 2**62 else None
        if isinstance(found, str) and len(found) < 20 and found.isascii() and found.isdigit():
            return int(found) if len(found) < 19 else None
        if isinstance(found, float) and found.is_integer() and abs(found) < 2**62:
            return int(found)
    return None


def from_base64(text: Any) -> bytes:
    """Decode base64.

    Raises:
        ProtocolError: It is none.
    """
    try:
        if isinstance(text, str):
            return binascii.a2b_base64(text) if text.isascii() else base64.b64decode(text, validate=True)
    except ValueError:
        pass
    raise ProtocolError("expected audio as base64, got something else: check the sender's payload")


def checked_rate(rate_hz: int | None, default: int) -> int:
    """Return a rate; the default if none is given.

    Raises:
        UnsupportedFormat: It is out of bounds.
    """
    rate_hz = default if rate_hz is None else rate_hz
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise UnsupportedFormat(f"expected a rate of {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz, got {rate_hz}: set another one")
    return rate_hz


class StereoSplitter:
    """Divides interleaved stereo of messages of any size into two channels of bytes.

    Args:
        width: Bytes of a sample.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._rest = b""

    def split(self, message: bytes) -> tuple[bytes, bytes]:
        """Return the bytes of both channels."""
        whole = self._rest + message
        size = len(whole) - len(whole) % (2 * self._width)
        self._rest = whole[size:]
        if self._width == 1:
            return whole[0:size:2], whole[1:size:2]
        samples = np.frombuffer(whole[:size], "<i2").reshape(-1, 2)
        return samples[:, 0].tobytes(), samples[:, 1].tobytes()
