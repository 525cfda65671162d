"""The part of WebSocket framing that the fast path for live audio needs (RFC 6455, section 5.2)."""

from __future__ import annotations

from struct import Struct

from websockets.frames import apply_mask  # type: ignore[attr-defined]  # the C function if available

FINAL = 0x80
FINAL_TEXT, FINAL_BINARY = 0x81, 0x82
MASKED = 0x80
OPCODE = 0x0F
FIRST_CONTROL_OPCODE = 0x08
SHORT, MEDIUM = 126, 65_536
MASK_BYTES = 4
MAX_HEAD_BYTES = 14
_MEDIUM_HEAD, _LONG_HEAD = Struct("!BBH"), Struct("!BBQ")


def text_frame_head(size: int) -> bytes:
    """Return the header of a server's text frame with a payload of `size` bytes."""
    if size < SHORT:
        return bytes((FINAL_TEXT, size))
    return _MEDIUM_HEAD.pack(FINAL_TEXT, 126, size) if size < MEDIUM else _LONG_HEAD.pack(FINAL_TEXT, 127, size)


def whole_message(data: bytes, kind: int) -> bytes | None:
    """Return the payload if the data is exactly one message of a client in one frame, else None.

    Args:
        data: What was received.
        kind: `FINAL_TEXT` or `FINAL_BINARY`.
    """
    if len(data) < 2 or data[0] != kind or data[1] < MASKED:
        return None
    size, head = data[1] - MASKED, 2
    if size >= SHORT:
        head = 4 if size == SHORT else 10
        size = int.from_bytes(data[2:head], "big")
    start = head + MASK_BYTES
    return apply_mask(data[start:], data[head:start]) if len(data) == start + size else None


class MessageBoundary:
    """Follows the frames of one client, to detect whether the next byte begins a message.

    An empty receive buffer does not prove that: the payload after a frame header may look like anything, even like a
    whole frame. Protocol violations are left to the library, which closes the connection.
    """

    __slots__ = ("_fragmented", "_head", "_payload_left")

    def __init__(self) -> None:
        self._head = b""
        self._payload_left = 0
        self._fragmented = False  # the message continues in another frame

    @property
    def reached(self) -> bool:
        """Whether the bytes so far are whole messages only."""
        return not (self._head or self._payload_left or self._fragmented)

    def feed(self, data: bytes) -> None:
        """Follow the next bytes; they may begin and end anywhere in a frame."""
        position, end = 0, len(data)
        while position < end:
            if self._payload_left:
                step = min(self._payload_left, end - position)
                self._payload_left -= step
                position += step
                continue
            known = len(self._head)
            head = self._head + data[position : position + MAX_HEAD_BYTES - known]
            size = _head_bytes(head)
            if len(head) < size:
                self._head = head
                return
            position += size - known
            self._head = b""
            self._payload_left = _payload_bytes(head)
            if head[0] & OPCODE < FIRST_CONTROL_OPCODE:  # control frames may arrive within a fragmented message
                self._fragmented = not head[0] & FINAL


def _head_bytes(head: bytes) -> int:
    """Return the length of a frame header; while it is still unknown, the maximum, so that more bytes are awaited."""
    if len(head) < 2:
        return MAX_HEAD_BYTES
    length = head[1] & (MASKED - 1)
    extended = 0 if length < SHORT else 2 if length == SHORT else 8
    return 2 + extended + (MASK_BYTES if head[1] & MASKED else 0)


def _payload_bytes(head: bytes) -> int:
    """Return the payload size from a complete frame header."""
    length = head[1] & (MASKED - 1)
    if length < SHORT:
        return length
    return int.from_bytes(head[2 : 4 if length == SHORT else 10], "big")
