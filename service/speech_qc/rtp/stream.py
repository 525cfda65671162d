"""One RTP stream as a leg: packets in, decoded samples and gaps out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio.packet_decoders import PacketDecoder, PacketDecoders
from speech_qc.audio.resample import Resampler
from speech_qc.errors import CapacityError, ClientError
from speech_qc.rtp.codecs import Codec
from speech_qc.rtp.finder import StreamKey
from speech_qc.rtp.ordering import Ordering
from speech_qc.rtp.packets import RtpPacket
from speech_qc.rtp.timeline import Entry, Keys, Missing, Sound, Timeline
from speech_qc.wire.vocabulary import GapKind

Float32 = NDArray[np.float32]

_BATCH_S = 0.5
"""Sound that is decoded at once: decoding packets one by one costs several times as much."""


@dataclass(frozen=True, slots=True)
class LegAudio:
    """Sound of a leg.

    Attributes:
        leg: Index of the leg.
        samples: float32 (n,), n > 0.
        rate_hz: Its rate, the same for the whole leg; the first item of a leg is sound.
    """

    leg: int
    samples: Float32
    rate_hz: int


@dataclass(frozen=True, slots=True)
class LegGap:
    """A time of a leg that was not received.

    Attributes:
        leg: Index of the leg.
        samples: Its length at the rate of the leg.
        kind: Why.
    """

    leg: int
    samples: int
    kind: GapKind


LegItem = LegAudio | LegGap


@dataclass(slots=True)
class MissingTime:
    """Times of a leg that were not received.

    Attributes:
        spans: Their number.
        samples: Their sum, at the rate of the leg.
        longest: The longest one.
    """

    spans: int = 0
    samples: int = 0
    longest: int = 0

    def add(self, samples: int) -> None:
        """Count one."""
        self.spans += 1
        self.samples += samples
        self.longest = max(self.longest, samples)


class RtpStream:
    """One stream; becomes a leg with its first packet that can be decoded.

    Args:
        key: Addresses and SSRC.
        first_ns: When its first packet was captured.
        codec_of: Explains its payload types.
        window_ns: How long to wait for a missing packet.
        max_s: Longest leg.
        number: Gives the next index of a leg; raises if there may be no further one.
        decoders: Decoders of G.722 and Opus.
    """

    def __init__(
        self,
        key: StreamKey,
        first_ns: int,
        codec_of: Callable[[int], Codec],
        window_ns: int,
        max_s: float,
        number: Callable[[], int],
        decoders: PacketDecoders,
    ) -> None:
        self.key, self.first_ns, self.last_ns = key, first_ns, first_ns
        self.ordering = Ordering(window_ns)
        self.timeline = Timeline(codec_of)
        self.leg: int | None = None
        """Index of its leg; None while nothing was decoded."""
        self.rate_hz = 0
        """Rate of the leg."""
        self.codecs: dict[str, None] = {}
        """Names of the codecs that were decoded, in order."""
        self.keys: list[str] = []
        """Telephone keys that were pressed, at most 64."""
        self.lead_s = 0.0
        """Seconds at its start that could not be decoded; they are no part of the leg."""
        self.position = 0
        """Samples so far, gaps included."""
        self.missing: dict[GapKind, MissingTime] = {"loss": MissingTime(), "dtx": MissingTime()}
        """What was not received, by kind."""
        self.damaged = 0
        """Packets that could not be decoded."""
        self.faults: list[str] = []
        """Why a codec is not decoded."""
        self.is_over = False
        """Whether the leg has reached its longest length; nothing after it is read."""
        self.previous_ssrc: int | None = None
        """SSRC of the stream before it between the same addresses."""
        self._number, self._decoders, self._max_s = number, decoders, max_s
        self._sounds: list[Sound] = []
        self._waiting_s = 0.0
        self._decoder: dict[Codec, PacketDecoder | None] = {}
        self._converter: Resampler | None = None

    def push(self, packet: RtpPacket) -> Iterator[LegItem]:
        """Take a packet in order of arrival; yield what became complete."""
        self.last_ns = max(self.last_ns, packet.time_ns)
        self.timeline.arrive(packet)
        for missing, ordered in self.ordering.push(packet):
            yield from self._place(missing, ordered)

    def finish(self) -> Iterator[LegItem]:
        """Yield the rest."""
        for missing, packet in self.ordering.flush():
            yield from self._place(missing, packet)
        yield from self._decode()
        yield from self._converted(None)
        for decoder in self._decoder.values():
            if decoder is not None:
                decoder.close()

    def _place(self, missing: int, packet: RtpPacket) -> Iterator[LegItem]:
        for entry in self.timeline.place(missing, packet):
            if not self.is_over:
                yield from self._take(entry)

    def _take(self, entry: Entry) -> Iterator[LegItem]:
        if isinstance(entry, Keys):
            if len(self.keys) < 64:
                self.keys.append(entry.key)
            return
        if isinstance(entry, Missing):
            yield from self._decode()
            yield from self._gap(entry.seconds, entry.kind)
            return
        codec = entry.codec
        self.rate_hz = self.rate_hz or codec.rate_hz
        self.codecs[codec.name] = None
        if self._sounds and self._sounds[-1].codec != codec:
            yield from self._decode()
        self._sounds.append(entry)
        self._waiting_s += entry.ticks / codec.clock_hz
        if self._waiting_s >= _BATCH_S:
            yield from self._decode()

    def _gap(self, seconds: float, kind: GapKind) -> Iterator[LegItem]:
        yield from self._converted(None)
        if self.leg is None:  # nothing was heard before: the leg begins after it
            self.lead_s += seconds
            return
        samples = self._room(round(seconds * self.rate_hz))
        if samples:
            self.position += samples
            self.missing[kind].add(samples)
            yield LegGap(self.leg, samples, kind)

    def _room(self, samples: int) -> int:
        """Return how many of these samples the leg may still have."""
        room = int(self._max_s * self.rate_hz) - self.position
        if samples > room:
            self.is_over = True
            return max(0, room)
        return samples

    def _decode(self) -> Iterator[LegItem]:
        """Decode what waits, all of one codec."""
        sounds, self._sounds, self._waiting_s = self._sounds, [], 0.0
        if not sounds:
            return
        codec = sounds[0].codec
        if not codec.is_stateful:
            if any(sound.skip for sound in sounds):
                yield from self._sound(
                    codec, np.concatenate([codec.decode(sound.payload)[sound.skip :] for sound in sounds])
                )
            else:
                yield from self._sound(codec, codec.decode(b"".join(sound.payload for sound in sounds)))
            return
        good: list[Float32] = []
        for sound, samples in zip(sounds, self._stateful(codec, [sound.payload for sound in sounds]), strict=True):
            factor = codec.rate_hz // codec.clock_hz
            due = (sound.ticks - sound.skip) * factor
            if samples is not None and len(samples) == sound.ticks * factor:
                good.append(samples[sound.skip * factor :])
                continue
            self.damaged += 1
            if good:
                yield from self._sound(codec, np.concatenate(good))
                good = []
            yield from self._gap(due / codec.rate_hz, "loss")
        if good:
            yield from self._sound(codec, np.concatenate(good))

    def _stateful(self, codec: Codec, payloads: list[bytes]) -> list[Float32 | None]:
        if codec not in self._decoder:
            try:
                name = "g722" if codec.name == "G722" else "opus"
                self._decoder[codec] = self._decoders.open(name, codec.rate_hz)  # type: ignore[arg-type]
            except (ClientError, CapacityError) as error:
                self._decoder[codec] = None
                self.faults.append(error.message)
        decoder = self._decoder[codec]
        if decoder is None:
            return [None] * len(payloads)
        try:
            return decoder.decode_all(payloads)
        except ClientError as error:
            self._decoder[codec] = None
            self.faults.append(error.message)
            decoder.close()
            return [None] * len(payloads)

    def _sound(self, codec: Codec, samples: Float32) -> Iterator[LegItem]:
        if codec.rate_hz == self.rate_hz:
            yield from self._converted(None)
            yield from self._emit(samples)
        else:
            if self._converter is None or self._converter.rate_hz != codec.rate_hz:
                yield from self._converted(None)
                self._converter = Resampler(codec.rate_hz, self.rate_hz)
            yield from self._converted(samples)

    def _converted(self, samples: Float32 | None) -> Iterator[LegItem]:
        """Convert sound of another rate than that of the leg; None ends it."""
        if self._converter is None:
            return
        if samples is not None:
            yield from self._emit(self._converter.push(samples))
            return
        converter, self._converter = self._converter, None
        yield from self._emit(converter.finish())

    def _emit(self, samples: Float32) -> Iterator[LegItem]:
        samples = samples[: self._room(len(samples))]
        if len(samples):
            if self.leg is None:
                self.leg = self._number()
            self.position += len(samples)
            yield LegAudio(self.leg, samples, self.rate_hz)
