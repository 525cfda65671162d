"""Conversations that hypothesis makes up: any messages in any order, any query, clients that leave."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from urllib.parse import urlencode

import hypothesis.strategies as st
from fuzz_asgi import application, at_rest, converse
from hypothesis import HealthCheck, Phase, given, settings

from speech_qc.wire.server_messages import SERVER

CLOSES = frozenset({1000, 1007, 1008, 1009})
"""Codes that a client alone can bring about; 1011 to 1013 would be this server's own trouble."""

COMMANDS = st.sampled_from(["KeepAlive", "Finalize", "CloseStream"]).map(lambda kind: json.dumps({"type": kind}))
CONFIGURE = st.fixed_dictionaries(
    {"type": st.just("Configure")},
    optional={
        "labels": st.lists(st.sampled_from(["noise", "speech", "snr_db", "humming", ""]), max_size=4) | st.none(),
        "emit_ms": st.integers(-10, 2000) | st.floats(allow_nan=False) | st.text(max_size=3),
        "profile": st.sampled_from(["default", "callcenter", "nobody"]),
        "more": st.integers(),
    },
).map(json.dumps)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
).map(json.dumps)
AUDIO = (
    st.binary(max_size=4000) | st.integers(0, 40_000).map(bytes) | st.sampled_from([b"\xff" * 3200, b"\x00\x80" * 999])
)
SAID = st.lists(AUDIO | AUDIO | COMMANDS | CONFIGURE | JSON | st.text(max_size=30), max_size=14)
GOOD_QUERY = st.fixed_dictionaries(
    {},
    optional={
        "encoding": st.sampled_from(["linear16", "mulaw", "alaw", "float32"]),
        "sample_rate": st.sampled_from([8000, 11025, 16000, 44100, 48000]),
        "channels": st.sampled_from([1, 2]),
        "emit_ms": st.sampled_from([20, 40, 100, 1000]),
        "labels": st.sampled_from(["noise", "speech,noise"]),
        "session_name": st.text(max_size=10),
    },
).map(urlencode)
BAD_QUERY = st.text(max_size=40) | st.dictionaries(st.text(max_size=12), st.text(max_size=12), max_size=4).map(
    urlencode
)
QUERY = (GOOD_QUERY | GOOD_QUERY | GOOD_QUERY | BAD_QUERY).map(lambda text: text.encode("utf-8", "surrogatepass"))


def run_conversations(count: int) -> Counter[int | None]:
    """Have so many conversations; raises AssertionError with the smallest one that goes wrong.

    Returns:
        How often each close code came; None where the client left.
    """
    codes: Counter[int | None] = Counter()

    async def talk(said: list[bytes | str], query: bytes, leave: bool) -> None:
        async with application() as app:
            told, code = await converse(app, [*said, '{"type":"CloseStream"}'], query=query, leave=leave)
            codes[code] += 1
            for text in told:
                SERVER.validate_json(text)
            assert code in CLOSES or (leave and code is None), (code, told[-1:])
            if code != 1000 and code is not None:
                assert json.loads(told[-1])["type"] == "error"
            assert at_rest(app)

    @settings(
        max_examples=count, deadline=None, database=None, derandomize=True, phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(SAID, QUERY, st.booleans())
    def every_conversation_ends_in_order(said: list[bytes | str], query: bytes, leave: bool) -> None:
        asyncio.run(talk(said, query, leave))

    every_conversation_ends_in_order()
    return codes
