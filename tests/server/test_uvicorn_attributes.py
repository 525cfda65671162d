"""Every undocumented attribute of uvicorn and websockets on which the server depends, by name.

The versions are capped in pyproject.toml; raise the cap when this test passes with the newer one.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import textwrap

import pytest
import uvicorn
from starlette.websockets import WebSocket
from uvicorn.lifespan.on import LifespanOn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.asyncio.client import connect
from websockets.protocol import Protocol
from websockets.server import ServerProtocol

from live_server import serving
from speech_qc.server.http_protocol import BoundedHttpProtocol
from speech_qc.server.server import StreamServer
from speech_qc.server.timeouts import ConnectionTimeouts
from speech_qc.server.websocket_protocol import LiveWebSocketProtocol
from speech_qc.server.worker import WorkerServer

USED = {
    BoundedHttpProtocol: {
        "_should_upgrade", "_unset_keepalive_if_required", "app", "connection_lost", "connection_made", "connections",
        "cycle", "data_received", "handle_websocket_upgrade", "headers", "loop", "on_header", "on_headers_complete",
        "on_message_begin", "on_message_complete", "on_url", "parser", "pipeline", "resume_writing",
        "send_400_response", "timeout_keep_alive", "timeout_keep_alive_handler", "timeout_keep_alive_task",
        "transport", "url",
    },
    LiveWebSocketProtocol: {
        "close_sent", "close_timeout", "close_timer", "config", "conn", "connection_lost", "connection_made",
        "curr_msg_data_type", "data_received", "disconnected", "frames", "handle_bytes", "handle_cont",
        "handle_parser_exception", "handle_ping", "handle_pong", "handle_text", "handshake_complete",
        "handshake_initiated", "initial_response", "logger", "loop", "queue", "read_paused", "receive",
        "resume_writing", "send", "send_receive_event_to_app", "shutdown", "stop_keepalive", "transport", "writable",
    },
    StreamServer: {
        "config", "force_exit", "handle_exit", "on_tick", "run", "server_state", "servers", "shutdown", "startup",
    },
    WorkerServer: {"config", "lifespan", "on_tick", "server_state", "shutdown", "startup"},
}  # fmt: skip
"""Attributes that each of our classes reads, sets, calls or overrides of the uvicorn class that it extends."""

UVICORN = {
    BoundedHttpProtocol: HttpToolsProtocol,
    LiveWebSocketProtocol: WebSocketsSansIOProtocol,
    StreamServer: uvicorn.Server,
    WorkerServer: uvicorn.Server,
}
ELSEWHERE = {
    uvicorn.Server: {"started"},
    uvicorn.Config: {"http_protocol_class", "ws_max_size", "timeout_graceful_shutdown", "ssl"},
    LifespanOn: {"state"},
    RequestResponseCycle: {"response_complete"},
    HttpToolsProtocol: {"transport"},
    WebSocketsSansIOProtocol: {"transport"},
    WebSocket: {"_receive"},
    ServerState: {"connections"},
    ServerProtocol: {"handshake_exc", "fail", "data_to_send", "state", "close_sent", "eof_sent", "logger", "debug"},
}
"""Attributes used of objects that uvicorn owns."""


def names_of(cls: type) -> set[str]:
    """Return the attributes of a class and its instances, including those that its methods set on `self`."""
    names = set(dir(cls))
    for base in cls.__mro__[:-1]:
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError):
            continue
        names |= {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
        }
    return names


def used_by(cls: type) -> set[str]:
    """Return the inherited attributes that one of our classes uses on `self` or through `super()`."""
    used, own = set(), set()
    for part in (cls, ConnectionTimeouts) if issubclass(cls, ConnectionTimeouts) else (cls,):
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(part)))):
            if (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self") or (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Call)
                and isinstance(node.value.func, ast.Name)
                and node.value.func.id == "super"
            ):
                used.add(node.attr)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                own.add(node.name)
    return (used | own) & names_of(UVICORN[cls]) - {"__init__"}


@pytest.mark.parametrize("cls", USED, ids=lambda cls: cls.__name__)
def test_each_class_uses_the_attributes_of_uvicorn_that_are_listed_and_no_others(cls):
    assert used_by(cls) == USED[cls]


@pytest.mark.parametrize("cls", USED, ids=lambda cls: cls.__name__)
def test_every_listed_attribute_is_there(cls):
    missing = USED[cls] - names_of(UVICORN[cls])
    assert not missing, f"{UVICORN[cls].__name__} of uvicorn {uvicorn.__version__} has no {missing}"


@pytest.mark.parametrize("cls", ELSEWHERE, ids=lambda cls: cls.__name__)
def test_what_is_used_of_objects_that_uvicorn_holds_is_there(cls):
    missing = ELSEWHERE[cls] - names_of(cls) - names_of(Protocol if cls is ServerProtocol else cls)
    missing -= set(getattr(cls, "__dataclass_fields__", ()))
    assert not missing


def test_a_stream_finds_the_protocol_object_behind_its_socket():
    """If it does not, messages take the slow path through ASGI, and nothing else tells."""
    found: list[object] = []

    async def main() -> None:
        async with serving() as (url, app), connect(f"{url}/v1/stream", compression=None) as link:
            await link.recv()
            found.extend(stream._socket._direct for stream in app.state.parts.streams._streams)

    asyncio.run(main())
    assert [type(one).__mro__[1] for one in found] == [LiveWebSocketProtocol]
