"""Asterisk AudioSocket: a TCP connection per call, with frames of one byte kind, two bytes length, and a payload.

Source: https://docs.asterisk.org/Configuration/Channel-Drivers/AudioSocket/. It has no authentication:
addresses that may connect are listed. The UUID is all that is known of a call. The sender sends nothing while its
source is silent. res/res_audiosocket.c labels audio in a codec that it does not know as 8 kHz, 16 bit.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_address
from itertools import pairwise
from statistics import median

from speech_qc.errors import EngineDead, ProtocolError, SpeechQCError, UnsupportedFormat
from speech_qc.security.caller import ANONYMOUS
from speech_qc.state import AppState
from speech_qc.telephony.call import CallSocket
from speech_qc.telephony.messages import Asked, Audio, Ignored, Item, Keys, LegFormat, VendorProtocol

logger = logging.getLogger("speech_qc.telephony")

HANG_UP, UUID, DTMF, ERROR = 0x00, 0x01, 0x03, 0xFF
RATES: Mapping[int, int] = {
    0x10: 8_000,
    0x11: 12_000,
    0x12: 16_000,
    0x13: 24_000,
    0x14: 32_000,
    0x15: 44_100,
    0x16: 48_000,
}
"""Rates by the kind of a frame with audio, 16 bit little-endian."""
TOO_FAST: Mapping[int, int] = {0x17: 96_000, 0x18: 192_000}

LEG = "caller"
UUID_S = 10.0
"""Longest wait for the UUID, which is the first frame."""
SPARE = 16
"""Connections beyond the places for live channels: those that are refused or have not said their UUID."""

PACE_FRAMES = 25
"""Frames with audio whose pace is checked at the begin of a call."""
SLOWEST = 1.5
"""How much longer than its samples a frame may take, in the middle."""

_HEAD = struct.Struct("!BH")

Networks = Sequence[IPv4Network | IPv6Network]


class AudioSocketProtocol(VendorProtocol):
    """One connection; its frames come as binary messages."""

    vendor = "audiosocket"
    clock = "arrival"

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._uuid: str | None = None
        self._kind: int | None = None  # of the frames with audio
        self._arrived_s: list[float] | None = []  # when the first ones came; None once their pace was checked
        self._longest_s = 0.0  # of them

    def binary(self, message: bytes) -> Sequence[Item]:
        """Read a frame, without its length."""
        kind, payload = message[0], message[1:]
        if kind == UUID:
            if self._uuid is not None or len(payload) != 16:
                raise ProtocolError(f"expected one UUID of 16 bytes, got another one or {len(payload)} bytes")
            self._uuid = str(uuid.UUID(bytes=payload))
            return []
        if self._uuid is None:
            raise ProtocolError(f"expected the UUID (0x01) first, got a frame of kind 0x{kind:02x}")
        if kind in RATES:
            self._check_pace(len(payload) / 2 / RATES[kind])
            return [*self._begin(kind), Audio(LEG, payload)]
        if kind in TOO_FAST:
            raise UnsupportedFormat(f"expected audio of at most 48000 Hz, got {TOO_FAST[kind]} Hz: use slin48 or less")
        if kind == DTMF:
            return [Keys(LEG, payload[:1].decode("ascii", errors="replace"))]
        return [Ignored()]

    def _check_pace(self, frame_s: float) -> None:
        """Refuse a channel that sends its own codec, such as µ-law, as if it were 16 bit: half as much as it should be.

        Asterisk's channel driver does so unless the codec is set, and calls every codec 8 kHz, 16 bit.
        """
        if self._arrived_s is None:
            return
        self._arrived_s.append(time.monotonic())
        self._longest_s = max(self._longest_s, frame_s)
        if len(self._arrived_s) <= PACE_FRAMES:
            return
        pace_s = median(later - one for one, later in pairwise(self._arrived_s))
        self._arrived_s = None
        if pace_s > SLOWEST * self._longest_s:
            raise UnsupportedFormat(
                f"expected 16-bit audio, got {self._longest_s * 1000:.3g} ms of it every {pace_s * 1000:.3g} ms, as if "
                "it were another codec: dial AudioSocket/host:port/uuid/c(slin)"
            )

    def _begin(self, kind: int) -> list[Item]:
        """Begin the call with its first audio."""
        if self._kind == kind:
            return []
        if self._kind is not None:
            raise ProtocolError("expected audio of one rate, got another one: keep the codec of the channel")
        self._kind = kind
        return [self.asked.started([LegFormat(LEG, "linear16", RATES[kind])], {}, self._uuid)]


class _Connection:
    """A TCP connection as a `CallTransport`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def tap(self, sink: Callable[[bytes], bool] | None) -> None:
        """Frames are always received in order by `receive`."""

    def tap_text(self, sink: Callable[[bytes], bool] | None) -> None:
        """There is no text."""

    async def receive(self) -> bytes | str | None:
        """Return the next frame without its length; None at the end."""
        try:
            kind, size = _HEAD.unpack(await self._reader.readexactly(_HEAD.size))
            if kind == HANG_UP:
                return None
            return bytes([kind]) + await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, OSError):
            return None

    async def send(self, text: bytes) -> None:
        """Nothing is ever sent to Asterisk."""

    def send_now(self, text: bytes) -> bool:  # noqa: ARG002
        """Nothing is ever sent to Asterisk."""
        return True

    async def close(self, code: int, reason: str) -> None:  # noqa: ARG002  # there are no codes
        """Hang up."""
        with suppress(OSError):
            self._writer.write(_HEAD.pack(HANG_UP, 0))
            self._writer.close()
            await self._writer.wait_closed()

    def abort(self) -> None:
        """Drop the connection."""
        self._writer.transport.abort()


class AudioSocketListener:
    """Listens for calls.

    Args:
        state: Parts of the server.
        allowed: Networks that may connect.
    """

    def __init__(self, state: AppState, allowed: Networks) -> None:
        self._state, self._allowed = state, allowed
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        assert self._server is not None
        found: int = self._server.sockets[0].getsockname()[1]
        return found

    async def start(self, host: str, port: int, *, shared: bool) -> None:
        """Listen.

        Args:
            host: Address.
            port: Port; 0 for any.
            shared: Whether other processes listen on the same port; the kernel then divides the calls.

        Raises:
            OSError: The address cannot be used.
        """
        self._server = await asyncio.start_server(self._accept, host, port, reuse_port=shared or None)
        logger.info("listening for AudioSocket on port %d", self.port)

    async def close(self) -> None:
        """Accept no more calls; those that go on are ended by the registry of streams."""
        if self._server is not None:
            self._server.close()
        if self._open:
            await asyncio.wait(self._open, timeout=1.0)
        for task in self._open:
            task.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        peer = writer.get_extra_info("peername")
        state = self._state
        if peer is None or not self._may(peer[0]) or len(self._open) >= state.settings.max_streams + SPARE:
            state.metrics.telephony_failures.labels("audiosocket").inc()
            logger.warning("AudioSocket refused from %s", peer[0] if peer else "unknown")
            writer.transport.abort()
            return
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # there are no pings
        self._open.add(task)
        try:
            await self._serve(_Connection(reader, writer))
        finally:
            self._open.discard(task)
            writer.close()

    async def _serve(self, connection: _Connection) -> None:
        try:
            async with asyncio.timeout(UUID_S):
                first = await connection.receive()
        except TimeoutError:
            first = None
        if first is None:
            self._state.metrics.telephony_failures.labels("audiosocket").inc()
            connection.abort()
            return
        identity = uuid.uuid4().hex
        try:
            with self._state.models.current.held() as generation:
                if generation.engine.status.death is not None:
                    raise EngineDead("the engine is dead")
                protocol = AudioSocketProtocol(Asked(identity))
                await CallSocket(connection, protocol, self._state, generation, ANONYMOUS, identity).run([first])
        except SpeechQCError as error:
            self._state.metrics.telephony_failures.labels("audiosocket").inc()
            self._state.metrics.telephony_ended.labels(error.code).inc()
            await connection.close(0, "")

    def _may(self, address: str) -> bool:
        found = ip_address(address.partition("%")[0])
        mapped = getattr(found, "ipv4_mapped", None)
        return any((mapped or found) in network for network in self._allowed)
