"""The protocol page matches the code: a client written only from it must work."""

import asyncio
import json
import re
from pathlib import Path
from typing import get_args

import numpy as np

from live_server import serving
from signals import white_noise
from speech_qc.audio.pcm import LIVE_ENCODINGS
from speech_qc.errors import StartupError
from speech_qc.live.options import KNOWN
from speech_qc.settings import Settings
from speech_qc.wire.client_messages import ClientMessage, parse_client_message
from speech_qc.wire.server_messages import SERVER, AnyServerMessage
from speech_qc.wire.vocabulary import WarningCode
from stream_material import pcm16
from test_errors import served

PAGE = (Path(__file__).resolve().parents[2] / "docs/protocol.md").read_text(encoding="utf-8")
SENT_OVER_THE_SOCKET = (
    "invalid_audio", "protocol_error", "payload_too_large", "inference_error", "engine_dead", "error", "draining",
    "overloaded", "deadline_exceeded",
)  # fmt: skip


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)


def test_every_option_encoding_warning_and_setting_is_described():
    for name in (*KNOWN, *LIVE_ENCODINGS, *get_args(WarningCode)):
        assert f"`{name}`" in PAGE, name
    for name in Settings.model_fields:
        if name.startswith("stream_") and name != "stream_send_queue_bytes":  # not relevant to a client
            assert f"SPEECHQC_{name.upper()}" in PAGE, name


def test_every_message_and_each_of_its_fields_is_described():
    for kind in get_args(AnyServerMessage):
        name = get_args(kind.model_fields["type"].annotation)[0]
        start = PAGE.index(f"**`{name}`**")
        section = PAGE[start : start + 1500]
        for field in kind.model_fields:
            assert field == "type" or f"`{field}`" in section, f"{name}.{field}"
    for kind in get_args(get_args(ClientMessage)[0]):
        assert f'{{"type":"{kind.__name__}"' in PAGE


def test_every_close_code_stands_beside_its_error():
    table = [line for line in PAGE.splitlines() if re.match(r"\| 1\d\d\d \|", line)]
    for kind in served():
        if kind.code in SENT_OVER_THE_SOCKET:
            assert any(line.startswith(f"| {kind.ws_close} |") and f"`{kind.code}`" in line for line in table), kind
        else:
            assert not issubclass(kind, StartupError) or f"`{kind.code}`" not in PAGE


def test_client_messages_of_the_page_can_be_read():
    found = re.findall(r"`(\{\"type\":.*?\})` \|", PAGE)
    assert len(found) == 5
    for text in found:
        parse_client_message(text)


def test_the_transcript_is_one():
    (transcript,) = blocks("transcript")
    said = [line[2:] for line in transcript.splitlines() if line.startswith("< {")]
    for text in said:
        message = SERVER.validate_json(text)
        assert list(message.document()) == list(json.loads(text)), "fields in the order in which the server sends them"
    messages = [json.loads(text) for text in said]
    following = 0
    for message in messages:
        if message["type"] == "scores":
            assert message["first_frame"] == following
            following += len(message["channels"][0]["frames"]["noise"])
    assert messages[-1]["type"] == "summary"
    assert messages[-1]["frames"] == following
    assert {"ready", "scores", "event", "finalized", "configured", "error"} <= {m["type"] for m in messages}


def test_the_clients_of_the_page_work(capsys):
    by_class, from_scratch = blocks("python")
    audio = pcm16(np.concatenate([np.zeros(8000), white_noise(1.5, level_dbfs=-12)]))
    scope: dict = {}
    exec(by_class + from_scratch, scope)

    async def main() -> None:
        async with serving() as (url, _):
            await scope["listen"](url, audio)
            summary = await scope["score"](url, audio)
            assert summary["frames"] == 100

    asyncio.run(main())
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] in ("pass", "warn", "fail")
    assert any(line.startswith("end noise") for line in printed[1:])
