"""How a call that is refused, or ended by the server, is parted from: in a way that its vendor understands."""

from __future__ import annotations

import asyncio

from speech_qc.errors import SpeechQCError
from speech_qc.live.socket import ClientGone
from speech_qc.telephony.messages import Reply, VendorProtocol
from speech_qc.telephony.transport import CallTransport
from speech_qc.wire.close import close_reason

PARTING_S = 2.0
"""Longest wait for a peer that closes the connection itself."""


async def refuse(transport: CallTransport, protocol: VendorProtocol | None, error: SpeechQCError) -> None:
    """Close an open connection because of an error; None if the vendor is not known."""
    try:
        if protocol is not None:
            for text in protocol.refusal(error):
                await transport.send(text)
            await part(transport, protocol)
        await transport.close(error.ws_close, close_reason(error))
    except ClientGone:
        return


async def part(transport: CallTransport, protocol: VendorProtocol) -> None:
    """Answer a peer that was told to go and closes the connection itself, until it has, or has had time enough.

    Raises:
        ClientGone: It has.
    """
    if not protocol.closes_itself:
        return
    try:
        async with asyncio.timeout(PARTING_S):
            while (message := await transport.receive()) is not None:
                for item in protocol.text(message.encode()) if isinstance(message, str) else ():
                    if isinstance(item, Reply):
                        await transport.send(item.text)
    except (TimeoutError, SpeechQCError):
        return  # it is closed by us
    raise ClientGone
