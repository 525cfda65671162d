"""A phone call from the other side: Twilio's fork with both tracks, a signed webhook, and the document of the call."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import httpx
import numpy as np
import pytest
from store_material import SECRET, receiving

from live_server import serving
from signals import talk, wav_bytes, white_noise
from speech_qc.wire.schemas import CallAnswer
from waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def place_call(url, folder):
    """Let `streamdouble` send the customer, who talks for 4 s, and the agent, who begins after 2 s."""
    customer, agent = (white_noise(7.0, level_dbfs=-66.0, rate_hz=8000, seed=seed) for seed in (1, 2))
    customer[4_000:36_000] += talk(8000, seconds=4.0)
    agent[20_000:52_000] += talk(8000, seconds=4.0, seed=3)
    for name, samples in (("customer.wav", customer), ("agent.wav", agent)):
        (folder / name).write_bytes(wav_bytes(samples, 8000))
    program = "import sys; from streamdouble.cli import main; sys.exit(main())"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, "call", "--fork", "--strict-fork", "--track", "both",
        "--audio", str(folder / "customer.wav"), "--agent-audio", str(folder / "agent.wav"),
        "--param", "trunk=a1", f"{url}/v1/telephony",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


async def test_a_call_of_twilio_gives_signed_webhooks_and_a_document_of_both_legs(tmp_path, shipped_runner):
    with receiving() as receiver:
        hooks: dict[str, Any] = {"webhook_urls": receiver.url, "webhook_secret": SECRET}
        async with serving(shipped_runner, **hooks) as (url, _):
            await place_call(url, tmp_path)
            web = url.replace("ws:", "http:")
            async with httpx.AsyncClient(base_url=web, timeout=10) as client:

                async def ended():
                    calls = (await client.get("/v1/calls", params={"state": "ended"})).json()["calls"]
                    return calls[0] if calls else None

                found = None
                while found is None:
                    found = await ended()
                    await asyncio.sleep(0.1)
                document = (await client.get(f"/v1/calls/{found['call_id']}")).json()
            await until(lambda: [b for _, b in receiver.accepted if b["type"] == "call.ended"], "the last webhook")

    assert not receiver.invalid, "every signature is valid"
    CallAnswer.model_validate(document)
    assert (document["state"], document["vendor"], document["trunk"]) == ("ended", "twilio", "a1")
    assert {leg["role"] for leg in document["legs"]} == {"inbound", "outbound"}
    assert all(leg["verdict"]["status"] for leg in document["legs"])
    interaction = document["interaction"]
    (event,) = [event for event in interaction["events"] if event["label"] == "talk_over"]
    assert event["leg"] == "outbound"
    assert event["onset_s"] == pytest.approx(2.5, abs=0.5)
    assert np.isfinite([leg["talk_ratio"] for leg in interaction["legs"]]).all()
    bodies = receiver.of_call(document["call_id"])
    kinds = [body["type"] for body in bodies]
    assert (kinds[0], kinds[-1]) == ("call.started", "call.ended")
    assert {"event.begin", "event.end"} <= set(kinds)
    assert bodies[-1]["data"] == document
    told = [
        body["data"] for body in bodies if body["type"] == "event.begin" and body["data"]["source"] == "interaction"
    ]
    assert [(one["label"], one["leg"]) for one in told] == [("talk_over", "outbound")]
