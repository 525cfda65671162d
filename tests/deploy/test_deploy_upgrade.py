"""deploy/upgrade.sh, nginx's reload and `down`: operations during live streams."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress

import httpx
import numpy as np
import pytest
import soundfile
from docker_engine import IMAGE, ROOT, Stack, block_until, docker, inspect

from board import SAMPLE
from speech_qc.client.stream import StreamClient, StreamClosed

pytestmark = pytest.mark.docker

NEXT, BROKEN = "deploy-test-next", "deploy-test-broken"
PAUSE_S = 0.2


@pytest.fixture(scope="module")
def stack(images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two replicas behind nginx with the version of SPEECH_QC_TAG."""
    name = IMAGE.partition(":")[0]
    docker("tag", IMAGE, f"{name}:{NEXT}")
    folder = tmp_path_factory.mktemp("broken")
    (folder / "Dockerfile").write_text(f"FROM {IMAGE}\nENV SPEECHQC_PORT=none\n", encoding="utf-8")
    docker("build", f"--tag={name}:{BROKEN}", str(folder))
    chosen = {"speech-qc": f"{name}:${{SPEECH_QC_TAG:-deploy-test}}", "nginx": images["nginx"]}
    found = Stack("speech-qc-test-upgrade", ["docker-compose.scale.yml"], chosen, tmp_path_factory.mktemp("upgrade"))
    found.down()
    try:
        found.up()
        yield found
    finally:
        found.down()


def upgrade(stack: Stack, tag: str, wait_s: int = 180) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "deploy/upgrade.sh", tag, str(wait_s)],
        cwd=ROOT, env=os.environ | stack.shell, capture_output=True, text=True, timeout=900,
    )  # fmt: skip


def versions(stack: Stack) -> list[str]:
    return [inspect(one)["Config"]["Image"].partition(":")[2] for one in stack.containers("speech-qc")]


async def upload_on(stack: Stack, statuses: list[int], end: asyncio.Event) -> None:
    """Upload one recording after another through nginx, each over a new connection."""
    while not end.is_set():
        async with httpx.AsyncClient(timeout=60) as web:
            answer = await web.post(f"{stack.address('nginx')}/v1/inspect?frames=false", content=SAMPLE.read_bytes())
            statuses.append(answer.status_code)
        await asyncio.sleep(PAUSE_S)


async def talk(stack: Stack, opened: asyncio.Event) -> StreamClosed:
    """Run a stream in real time until the server ends it; return how it ended."""
    audio, _ = soundfile.read(SAMPLE, dtype="float32")
    async with StreamClient.connect(stack.address("nginx"), encoding="linear16", open_timeout_s=60) as stream:

        async def send() -> None:
            with suppress(StreamClosed):
                while True:
                    for piece in np.array_split(audio, audio.size // 1600):
                        await stream.send(piece)
                        await asyncio.sleep(0.1)

        sending = asyncio.create_task(send())
        try:
            async for _ in stream:
                opened.set()
        except StreamClosed as end:
            return end
        finally:
            sending.cancel()
            await asyncio.wait({sending})
    raise AssertionError("it ended early")


def test_a_version_that_does_not_become_healthy_leaves_the_old_ones(stack: Stack):
    before = stack.containers("speech-qc")
    done = upgrade(stack, BROKEN, wait_s=30)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "SPEECHQC_PORT" in done.stderr, "the log says why"
    assert "keep serving" in done.stderr
    assert stack.containers("speech-qc") == before
    assert versions(stack) == ["deploy-test"] * 2


def test_an_upgrade_replaces_all_and_nobody_is_refused(stack: Stack):
    async def main() -> list[int]:
        statuses: list[int] = []
        end, opened = asyncio.Event(), [asyncio.Event() for _ in range(2)]
        talking = [asyncio.create_task(talk(stack, one)) for one in opened]
        uploading = asyncio.create_task(upload_on(stack, statuses, end))
        await asyncio.gather(*(one.wait() for one in opened))
        done = await asyncio.to_thread(upgrade, stack, NEXT)
        assert done.returncode == 0, done.stdout + done.stderr
        end.set()
        await uploading
        assert [one.code for one in await asyncio.gather(*talking)] == [1012, 1012]
        return statuses

    statuses = asyncio.run(asyncio.wait_for(main(), 900))
    assert len(statuses) > 5 and set(statuses) == {200}, statuses
    assert versions(stack) == [NEXT] * 2


def test_nginx_takes_another_configuration_and_cuts_no_stream(stack: Stack):
    async def main() -> StreamClosed:
        opened = asyncio.Event()
        talking = asyncio.create_task(talk(stack, opened))
        await opened.wait()
        words = ("exec", "-T", "nginx", "nginx", "-c", "/etc/speech-qc/nginx.conf", "-s", "reload")
        await asyncio.to_thread(stack.compose, *words)
        await asyncio.sleep(5)
        assert not talking.done()
        # `down` stops nginx and the replicas at the same time, so that the replicas' last messages pass through nginx.
        ending = asyncio.create_task(asyncio.to_thread(stack.compose, "stop"))
        end = await talking
        await ending
        return end

    end = asyncio.run(asyncio.wait_for(main(), 300))
    assert end.code == 1012
    block_until(lambda: stack.containers("speech-qc") == [], "all have ended")
