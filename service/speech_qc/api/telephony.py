"""`WebSocket /v1/telephony` and `/v1/telephony/{vendor}`: sockets that phone systems open."""

from __future__ import annotations

import asyncio
import logging

from fastapi import APIRouter, WebSocket

from speech_qc.api.deps import app_state, request_id
from speech_qc.api.deps import caller as caller_of
from speech_qc.api.error_responses import answer
from speech_qc.api.stream import StreamSocket, dead_engine
from speech_qc.errors import ProtocolError, SpeechQCError, Unauthorized
from speech_qc.security.caller import Caller
from speech_qc.state import AppState
from speech_qc.telemetry.metrics import UNKNOWN_VENDOR
from speech_qc.telephony.call import CallSocket
from speech_qc.telephony.messages import Asked, VendorProtocol
from speech_qc.telephony.recognise import PROTOCOLS, by_message, by_upgrade, chosen_call_protocol
from speech_qc.telephony.refusal import refuse

logger = logging.getLogger("speech_qc.telephony")

FIRST_MESSAGE_S = 10.0
"""Longest wait for the message that says who is calling."""

router = APIRouter()


async def telephony(websocket: WebSocket) -> None:
    """Serve the phone system that the path names, or that is told by what it sends; docs/telephony.md describes it."""
    named: str | None = websocket.path_params.get("vendor")
    await _serve(websocket, app_state(websocket), request_id(websocket), caller_of(websocket), named)


for path in ("/v1/telephony", "/v1/telephony/{vendor}"):
    router.add_websocket_route(path, telephony)  # not `websocket`; see `speech_qc.api.stream`


async def _serve(websocket: WebSocket, state: AppState, identity: str, caller: Caller, named: str | None) -> None:
    """Accept at once: Asterisk drops a call whose upgrade is not answered within half a second."""
    if (dead := dead_engine(state)) is not None:
        _count_refused(state, UNKNOWN_VENDOR, dead)
        await websocket.send_denial_response(answer(dead, websocket))
        return
    await websocket.accept(chosen_call_protocol(websocket.scope.get("subprotocols", ())))
    socket = StreamSocket(websocket)
    protocol: VendorProtocol | None = None
    try:
        headers = {name.lower(): value for name, value in websocket.headers.items()}
        asked = Asked.of(websocket.query_params.multi_items(), headers, identity)
        kind = _named(named) if named is not None else by_upgrade(headers, websocket.scope.get("subprotocols", ()))
        first: list[bytes | str] = []
        if kind is None:
            async with asyncio.timeout(FIRST_MESSAGE_S):
                message = await socket.receive()
            if message is None:
                return
            kind, first = by_message(message), [message]
        protocol = kind(asked)
        _check_signed(state, websocket, protocol, caller)
        with state.models.current.held() as generation:
            await CallSocket(socket, protocol, state, generation, caller, identity).run(first)
    except TimeoutError:
        await _refuse(socket, protocol, ProtocolError("expected a first message within 10 s, got none"), state)
    except SpeechQCError as error:
        await _refuse(socket, protocol, error, state)


def _named(vendor: str) -> type[VendorProtocol]:
    kind = PROTOCOLS.get(vendor)
    if kind is None:
        raise ProtocolError(f"expected one of {', '.join(PROTOCOLS)} in the path, got {vendor[:40]!r}: correct the URL")
    return kind


def _check_signed(state: AppState, websocket: WebSocket, protocol: VendorProtocol, caller: Caller) -> None:
    """Refuse a vendor whose secret is set, unless the access check has found its signature, or a key.

    Raises:
        Unauthorized: It has shown neither.
    """
    signer = websocket.scope.get("speechqc.signer")
    if signer is None and caller.key is None and state.signatures.demands(protocol.vendor):
        raise Unauthorized(
            f"expected a signature of {protocol.vendor}, got none: check that the vendor signs its upgrade"
        )


async def _refuse(socket: StreamSocket, protocol: VendorProtocol | None, error: SpeechQCError, state: AppState) -> None:
    """Close an accepted socket in a way that the vendor understands."""
    _count_refused(state, UNKNOWN_VENDOR if protocol is None else protocol.name, error)
    await refuse(socket, protocol, error)


def _count_refused(state: AppState, vendor: str, error: SpeechQCError) -> None:
    state.metrics.telephony_failures.labels(vendor).inc()
    state.metrics.telephony_ended.labels(error.code).inc()
    logger.info("call from %s: %s: %s", vendor, error.code, error)  # phone systems show no reason of a close
