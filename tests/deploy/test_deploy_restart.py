"""docker-compose.yml: a process that can no longer serve exits, and Docker restarts it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest
from docker_engine import ROOT, Stack, block_until, docker, inspect

from board import SAMPLE
from speech_qc.exit_codes import FATAL

pytestmark = pytest.mark.docker

PROGRAM = ROOT / "tests" / "faults" / "hanging_server.py"
SWITCH = "/tmp/hang"  # in the memory of the container
SETTINGS = {"SPEECHQC_STEP_DEADLINE_S": "2", "SPEECHQC_EXIT_WHEN_DEAD_S": "1"}


@pytest.fixture(scope="module")
def frail(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The service alone, with a device that can be made to hang."""
    folder = tmp_path_factory.mktemp("frail")
    program = folder / "frail.yml"
    lines = ["services:", "  speech-qc:", f"    command: [python, /hanging_server.py, {SWITCH}]"]
    lines += [f'    volumes: ["{PROGRAM}:/hanging_server.py:ro"]']
    program.write_text("\n".join(lines) + "\n", encoding="utf-8")
    stack = Stack("speech-qc-test-frail", [str(program)], {"speech-qc": image}, folder, {"speech-qc": SETTINGS})
    stack.down()
    try:
        stack.up()
        yield stack
    finally:
        stack.down()


def inspected(stack: Stack) -> int | None:
    """Return the status of the response to the sample; None without a response."""
    with suppress(httpx.TransportError):
        url = f"{stack.address('speech-qc')}/v1/inspect?frames=false"
        return httpx.post(url, content=SAMPLE.read_bytes(), timeout=60).status_code
    return None


def exit_codes(container: str, since_s: float) -> list[str]:
    """Return the exit code of a container's process since then."""
    words = [f"--since={since_s:.0f}", f"--until={time.time():.0f}", f"--filter=container={container}"]
    return docker("events", *words, "--filter=event=die", "--format={{.Actor.Attributes.exitCode}}").split()


def test_a_container_whose_engine_hangs_is_started_again_and_serves(frail: Stack):
    (container,) = frail.containers("speech-qc")
    start_s = time.time()
    assert inspected(frail) == 200
    docker("exec", container, "touch", SWITCH)
    assert inspected(frail) != 200
    block_until(lambda: inspect(container)["RestartCount"] == 1, "a restart")
    block_until(lambda: inspected(frail) == 200, "an answer after the restart")
    assert exit_codes(container, start_s) == [str(FATAL)]
    assert frail.containers("speech-qc") == [container]
