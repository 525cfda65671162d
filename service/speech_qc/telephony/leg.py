"""One leg of a phone call: its clock, its scores, and what its call hears of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio.packet_decoders import PacketDecoder
from speech_qc.audio.sample_decoder import SampleDecoder
from speech_qc.calls.legs import CallJoin, LegInfo
from speech_qc.errors import PayloadTooLarge
from speech_qc.live.clock import ArrivalClock, Missing, Piece, PositionClock
from speech_qc.live.options import StreamOptions
from speech_qc.live.score_messages import leg_document
from speech_qc.live.scorer import Scorer
from speech_qc.model.reload import Generation
from speech_qc.pipeline.channel_scores import Update
from speech_qc.pipeline.session import ChannelRecord
from speech_qc.scoring import Profile
from speech_qc.state import AppState
from speech_qc.telephony.messages import Audio, Clock, LegFormat
from speech_qc.telephony.packets import EncodedPacket
from speech_qc.wire.vocabulary import GapKind

Float32 = NDArray[np.float32]
OnUpdate = Callable[[str, Update], None]

logger = logging.getLogger("speech_qc.telephony")

PIECE_S = 0.1
MAX_MESSAGE_S = 5.0
"""Longest audio of one message: it is taken in one go. Vendors send 20 to 200 ms."""

EMIT_MS = 100


@dataclass(frozen=True, slots=True)
class Scoring:
    """What legs are scored with.

    Attributes:
        generation: The model that the call keeps.
        state: Parts of the server.
        profile: Limits of the verdict.
        profile_name: Its name.
    """

    generation: Generation
    state: AppState
    profile: Profile
    profile_name: str


class _Output:
    """Passes on what a scorer finds; knows neither the scorer nor the leg, so that both are freed at once.

    Args:
        leg: Name of the leg.
        on_update: Called with its name and its scores and events.
    """

    full = False
    on_text = None

    def __init__(self, leg: str, on_update: OnUpdate) -> None:
        self._leg, self._on_update = leg, on_update

    def updated(self, updates: Sequence[Update]) -> None:
        """Pass on the scores and events of the only channel."""
        self._on_update(self._leg, updates[0])

    def emit(self) -> None:
        """Nothing waits here."""


class Leg:
    """One leg, with an engine session until it ends; used from one event loop.

    Args:
        form: Its name and the format of its audio.
        info: What its call is told.
        scoring: What it is scored with.
        calls: The call that it joins.
        clock: Where its audio belongs in time.
        ordered: Whether its packets arrive in order.
        on_update: Called with its name and its scores and events.

    Raises:
        Overloaded, Draining, EngineDead: The engine refuses.
        Overloaded, ProtocolError: The call does not take it; see `CallJoin.join`.
        InvalidAudio: The rate is not supported.
    """

    def __init__(
        self,
        form: LegFormat,
        info: LegInfo,
        scoring: Scoring,
        calls: CallJoin,
        *,
        clock: Clock,
        ordered: bool,
        on_update: OnUpdate,
    ) -> None:
        self.name, self._rate_hz, self._scoring = info.leg, form.rate_hz, scoring
        contract = scoring.generation.contract
        options = StreamOptions(
            encoding=form.encoding if form.packets is None else "float32",  # as packets are decoded
            rate_hz=form.rate_hz,
            channels=1,
            emit_ms=EMIT_MS,
            labels=contract.label_names,
            profile=scoring.profile,
            profile_name=scoring.profile_name,
            session_name=None,
            legs=(info,),
        )
        self._decoder = SampleDecoder(form.encoding, 1, max(1, round(form.rate_hz * PIECE_S)))
        self._codec = form.packets
        self._packets: PacketDecoder | None = None  # opened by the first packet
        self._clock: PositionClock[Piece] | ArrivalClock[Piece] | None = None
        if clock == "position":
            self._clock = PositionClock(form.rate_hz, ordered=ordered)
        elif clock == "arrival":
            self._clock = ArrivalClock(form.rate_hz)
        self._model_rate_hz = contract.features.sample_rate_hz
        self._held: list[Float32] = []  # packets without which no chunk is complete yet
        self._held_samples = 0
        self._scorer = Scorer(scoring.generation, scoring.state, options, _Output(info.leg, on_update), _unchecked)
        self._scorer.open()
        try:
            self._feed = calls.join(info)
            self._scorer.legs.append(self._feed)
        except BaseException:
            self._scorer.close()
            raise
        self._ended = False
        self.on_drain: Callable[[], None] | None = None
        """Called when the server shuts down."""

    def drain(self, timeout_s: float) -> None:  # noqa: ARG002
        """End the leg because the server is shutting down."""
        if self.on_drain is not None:
            self.on_drain()

    @property
    def has_room(self) -> bool:
        """Whether less than the allowed amount of audio waits."""
        return self._scorer.has_room

    @property
    def failed(self) -> BaseException | None:
        """The engine's permanent failure, if there is one."""
        done = self._scorer.done
        return done.exception() if done.done() and not done.cancelled() else None

    @property
    def due_s(self) -> float | None:
        """When `expire` has something to do."""
        return None if self._clock is None else self._clock.due_s

    async def wait_for_room(self) -> None:
        """Wait until there is room, or the engine has failed."""
        if not self._scorer.has_room:
            room = asyncio.ensure_future(self._scorer.wait_for_room())
            await asyncio.wait({room, self._scorer.done}, return_when=asyncio.FIRST_COMPLETED)
            room.cancel()

    def take(self, audio: Audio, now_s: float) -> None:
        """Take audio that arrived now.

        Raises:
            ProtocolError: Its position is impossible.
            PayloadTooLarge: It is too long for one message.
        """
        if self._codec is not None:
            self._packets = self._packets or self._scoring.state.packets.open(self._codec, self._rate_hz)
            packet = EncodedPacket.of(self._codec, audio.payload)
            self._take_piece(packet, now_s, audio.position, audio.sequence)
            return
        longest = round(MAX_MESSAGE_S / PIECE_S) * self._decoder.piece_bytes
        if len(audio.payload) > longest:
            raise PayloadTooLarge(
                f"expected at most {MAX_MESSAGE_S:g} s of audio in a message, got {len(audio.payload)} bytes: send "
                "smaller messages"
            )
        position = audio.position
        for samples in self._decoder.pieces(audio.payload):
            self._take_piece(samples[0], now_s, position, audio.sequence)
            if position is not None:
                position += len(samples[0])

    def _take_piece(self, piece: Piece, now_s: float, position: int | None, sequence: int | None) -> None:
        clock = self._clock
        items: list[Piece | Missing]
        if clock is None:
            items = [piece]
        elif isinstance(clock, PositionClock):
            if position is None:  # the sender left it out
                position = clock.next_position
            items = clock.take(piece, now_s, position, sequence)
        else:
            items = clock.take(piece, len(piece), now_s)
        self._push(items, now_s)

    def expire(self, now_s: float) -> None:
        """Take what has waited long enough."""
        if self._clock is not None:
            self._push(self._clock.expire(now_s), now_s)

    def pause(self, seconds: float, kind: GapKind, now_s: float) -> None:
        """Note a gap that the sender declares; with positions, it follows from them."""
        missing = Missing(round(seconds * self._rate_hz), kind)
        if isinstance(self._clock, ArrivalClock):
            self._push(self._clock.gap(missing.samples), now_s)
        if not isinstance(self._clock, PositionClock):
            self._push([missing], now_s)

    def digits(self, digits: str) -> None:
        """Note keys, masked already."""
        if not self._ended:
            self._push_held(time.monotonic())
            position = self._scorer.sessions[0].position * self._model_rate_hz // self._rate_hz
            self._feed.digits(position, digits)

    async def end(self, *, regular: bool) -> None:
        """Score the rest and end the leg with its document, also if the engine has failed.

        Args:
            regular: Whether the sender said that the call is over.
        """
        now_s = time.monotonic()
        try:
            if self._clock is not None:
                self._push(self._clock.finish(), now_s)
            self._push_held(now_s)
            self._scorer.end()
            await self._scorer.done
        except Exception as error:  # the leg ends with what was scored
            logger.warning("leg ends early: %s", type(error).__name__)
        # In a thread: it may list thousands of events.
        self._close_with(*await asyncio.to_thread(self._result), regular=regular)

    def close(self) -> None:
        """End the leg with what was scored so far, unless it has ended."""
        if not self._ended:
            self._push_held(time.monotonic())
            self._close_with(*self._result(), regular=False)

    def _result(self) -> tuple[ChannelRecord, dict[str, Any]]:
        """Return the leg's record and document."""
        session = self._scorer.sessions[0]
        transport = session.transport()
        if self._clock is not None:
            transport = replace(transport, **asdict(self._clock.arrivals), drift_ppm=self._clock.drift_ppm)
        record = replace(session.record(self._scoring.profile), transport=transport)
        labels = self._scoring.generation.contract.label_names
        return record, leg_document(0, record, labels)

    def _close_with(self, record: ChannelRecord, document: Mapping[str, Any], *, regular: bool) -> None:
        if self._ended:  # closed meanwhile
            return
        self._ended = True
        self._scorer.stop()
        self._scorer.close()
        if self._packets is not None:
            self._packets.close()
        metrics = self._scoring.state.metrics
        metrics.verdicts.labels(record.verdict.status).inc()
        metrics.end_channel("live", record.summary.snr_db, self._scorer.sessions[0].scores.event_counts)
        assert record.transport is not None  # set by `_result`
        for kind, seconds in record.transport.missing_s.items():
            metrics.telephony_gap_seconds.labels(kind).inc(seconds)
        self._feed.ended(document, regular=regular)

    def _push(self, items: Sequence[Piece | Missing], now_s: float) -> None:
        for item in items:
            if isinstance(item, EncodedPacket):
                assert self._packets is not None
                item = item.decoded(self._packets)
            if not isinstance(item, Missing):
                self._hold(cast(Float32, item), now_s)
                continue
            self._push_held(now_s)
            self._scorer.gap(item.samples, item.kind)

    def _hold(self, samples: Float32, now_s: float) -> None:
        """Join short packets, each of which would cost as much as a whole chunk."""
        self._held.append(samples)
        self._held_samples += len(samples)
        if self._held_samples >= self._scorer.samples_missing:
            self._push_held(now_s)

    def _push_held(self, now_s: float) -> None:
        if self._held:
            samples = self._held[0] if len(self._held) == 1 else np.concatenate(self._held)
            self._held, self._held_samples = [], 0
            self._scorer.push([samples], now_s, bounded=True)


def _unchecked(channel: int, samples: Float32, mean_square: float) -> None:
    """Look for nothing: what the checks of `/v1/stream` would warn of, nobody could read here."""
