"""docs/results.md: its examples work, and what it names exists."""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from pathlib import Path
from typing import get_args

import pytest
from store_material import SECRET, event

from live_server import port_of, serving
from speech_qc.calls.events import CallEventKind
from speech_qc.settings import Settings
from speech_qc.webhooks.signing import Signer

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "results.md").read_text(encoding="utf-8")


def test_the_receiver_in_the_page_takes_a_webhook_once_and_refuses_a_forged_one(capsys):
    (code,) = re.findall(r"^```python\n(.+?)^```$", PAGE, re.M | re.S)
    names: dict = {"SECRET": SECRET, "seen": set()}
    exec(compile(code, "docs/results.md", "exec"), names)
    body = b'{"type":"call.ended","timestamp":"2026-11-29T23:18:21.120Z","data":{"call_id":"CA1"}}'
    headers = Signer.parse(SECRET).headers("msg_1", int(time.time()), body)
    for _ in range(2):
        names["receive"](body, headers)
    assert capsys.readouterr().out == "call.ended CA1\n"
    with pytest.raises(Exception, match="No matching signature"):
        names["receive"](body.replace(b"CA1", b"CA2"), headers)
    late = Signer.parse(SECRET).headers("msg_2", int(time.time()) - 600, body)
    with pytest.raises(Exception, match="too old"):
        names["receive"](body, late)


def test_the_page_names_settings_and_events_that_exist():
    variables = set(re.findall(r"SPEECHQC_[A-Z_]+", PAGE))
    assert {name.removeprefix("SPEECHQC_").lower() for name in variables} <= set(Settings.model_fields)
    ours = {name for name in Settings.model_fields if name.startswith(("results_", "webhook_"))}
    assert {f"SPEECHQC_{name.upper()}" for name in ours} <= variables
    for kind in get_args(CallEventKind):
        assert f"`{kind}`" in PAGE


def test_curl_reads_events_as_the_page_shows():
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")

    async def main():
        async with serving() as (url, app):
            address = f"http://127.0.0.1:{port_of(url)}/v1/watch?trunk=line-1"
            process = await asyncio.create_subprocess_exec(
                "curl", "-sN", "--max-time", "20", address, stdout=asyncio.subprocess.PIPE
            )
            assert process.stdout is not None
            assert (await process.stdout.readline()).startswith(b"retry:")
            app.state.parts.results.publish(event("call.started", "CA1"))
            lines = [await process.stdout.readline() for _ in range(5)]
            process.kill()
            await process.wait()
            assert re.fullmatch(rb"id: \d+\n", lines[2]) and lines[3] == b"event: call.started\n"
            assert lines[4].startswith(b'data: {"type":"call.started","timestamp":"2')

    asyncio.run(main())
