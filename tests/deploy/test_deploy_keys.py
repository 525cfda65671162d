"""docker-compose.keys.yml: who has no key gets nothing but health."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest
from board import SAMPLE
from docker_engine import ROOT, Stack, docker

from service.settings import Settings

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def keyed(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, str]]:
    """The service alone, with a keys file; and a key, empty where this version knows none."""
    folder = tmp_path_factory.mktemp("keys")
    file = folder / "keys.jsonl"
    key = ""
    if "api_keys_file" in Settings.model_fields:
        words = [sys.executable, "-m", "service", "keys", "add", "test", "--file", str(file)]
        key = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    file.touch()
    file.chmod(0o644)
    stack = Stack("speech-qc-test-keys", ["docker-compose.keys.yml"], {"speech-qc": image}, folder,
                  SPEECH_QC_KEYS=str(file))  # fmt: skip
    stack.down()
    try:
        stack.up()
        yield stack, key
    finally:
        stack.down()


def test_the_service_can_read_its_keys_and_not_write_them(keyed):
    stack, _ = keyed
    (container,) = stack.containers("speech-qc")
    program = (
        "import os; path = os.environ['SPEECHQC_API_KEYS_FILE']; open(path).read()\n"
        "try: open(path, 'a')\nexcept OSError: print('read only')"
    )
    assert docker("exec", container, "python", "-c", program).strip() == "read only"


@pytest.mark.skipif("api_keys_file" not in Settings.model_fields, reason="this version has no keys")
def test_only_who_has_a_key_is_served(keyed):
    stack, key = keyed
    url = f"{stack.address('speech-qc')}/v1/inspect?frames=false"
    assert httpx.post(url, content=SAMPLE.read_bytes(), timeout=60).status_code == 401
    answer = httpx.post(url, content=SAMPLE.read_bytes(), headers={"Authorization": f"Bearer {key}"}, timeout=60)
    assert answer.status_code == 200
