"""docker-compose.keys.yml: a client without a key has access only to the health endpoints."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from docker_engine import ROOT, Stack, block_until, docker

from board import SAMPLE

pytestmark = pytest.mark.docker


def keys(*words: str, file: Path) -> str:
    """`speech-qc keys` on the host."""
    command = [sys.executable, "-m", "speech_qc", "keys", *words, "--file", str(file)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def keyed(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Path, str]]:
    """The service alone, with its keys file on the host and a key in it."""
    folder = tmp_path_factory.mktemp("keys") / "mounted"
    folder.mkdir()
    file = folder / "keys.jsonl"
    key = keys("add", "test", file=file)
    folder.chmod(0o755)
    file.chmod(0o644)
    stack = Stack("speech-qc-test-keys", ["docker-compose.keys.yml"], {"speech-qc": image}, folder.parent,
                  SPEECH_QC_KEYS=str(folder))  # fmt: skip
    stack.down()
    try:
        stack.up()
        yield stack, file, key
    finally:
        stack.down()


def test_the_service_can_read_its_keys_and_not_write_them(keyed):
    stack, _, _ = keyed
    (container,) = stack.containers("speech-qc")
    program = (
        "import os; path = os.environ['SPEECHQC_API_KEYS_FILE']; open(path).read()\n"
        "try: open(path, 'a')\nexcept OSError: print('read only')"
    )
    assert docker("exec", container, "python", "-c", program).strip() == "read only"


def test_only_who_has_a_key_is_served_and_one_that_is_taken_away_on_the_host_is_refused(keyed):
    stack, file, key = keyed
    url = f"{stack.address('speech-qc')}/v1/inspect?frames=false"

    def status(key: str = "") -> int:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.post(url, content=SAMPLE.read_bytes(), headers=headers, timeout=60).status_code

    assert status() == 401
    assert status(key) == 200
    other = keys("add", "other", file=file)
    block_until(lambda: status(other) == 200, "a new key is taken")
    keys("remove", "test", file=file)
    block_until(lambda: status(key) == 401, "the one that was taken away is refused")
    assert status(other) == 200
