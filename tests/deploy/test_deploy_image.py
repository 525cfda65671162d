"""The CPU image: small, unprivileged, works with a read-only file system."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
from docker_engine import IMAGE, ROOT, block_until, docker, health, inspect

from speech_qc.capacity.host import free_port
from speech_qc.version import __version__

pytestmark = pytest.mark.docker

SAMPLE = ROOT / "examples" / "sample.wav"
HARD = ("--read-only", "--tmpfs=/tmp:size=16m,noexec,nosuid", "--cap-drop=ALL", "--security-opt=no-new-privileges:true")


@pytest.fixture(scope="module")
def lone(image: str) -> Iterator[tuple[str, int]]:
    """Run a container of the image with the restrictions of the Compose file; yield its name and port."""
    name, port = "speech-qc-test-lone", free_port()
    docker("rm", "--force", name, check=False)
    # A separate network, because the engine may have no default bridge.
    docker("network", "create", name)
    docker(
        *("run", "--detach", f"--name={name}", f"--network={name}", *HARD, "--memory=2g", "--pids-limit=256"),
        *(
            f"--publish=127.0.0.1:{port}:8000",
            "--health-interval=2s",
            "--health-timeout=20s",
            "--health-start-period=300s",
            "--env=SPEECHQC_ALLOW_ANONYMOUS=true",
            image,
        ),
    )
    try:
        block_until(lambda: health(name) == "healthy", f"{name} healthy")
        yield name, port
    finally:
        docker("rm", "--force", name)
        docker("network", "rm", name)


def inside(name: str, program: str) -> str:
    return docker("exec", name, "python", "-c", program).strip()


def test_it_serves_with_nothing_to_write_to(lone):
    name, port = lone
    answer = httpx.post(f"http://127.0.0.1:{port}/v1/inspect", content=SAMPLE.read_bytes(), timeout=60)
    assert answer.status_code == 200
    assert answer.json()["channels"][0]["verdict"]["status"] == "warn"
    assert docker("diff", name).strip() == ""
    assert "Read-only" in inside(name, "try: open('/opt/venv/x', 'w')\nexcept OSError as e: print(e)")


def test_it_is_nobody_and_gains_nothing(lone):
    name, _ = lone
    assert inside(name, "import os; print(os.getuid(), os.getgid())") == "10001 10001"
    status = inside(name, "print(open('/proc/1/status').read())")
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status


def test_there_is_no_compiler_and_one_onnx_runtime(lone):
    name, _ = lone
    found = inside(name, "import shutil; print([p for p in ('cc', 'gcc', 'g++', 'make', 'ld') if shutil.which(p)])")
    assert found == "[]"
    packages = json.loads(
        inside(
            name,
            "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))",
        )
    )
    assert "onnxruntime" in packages and "onnxruntime-gpu" not in packages
    assert "torch" not in packages and packages["speech-qc"] == __version__


def test_everything_in_it_has_the_version_that_is_written_down(lone):
    name, _ = lone
    lines = (ROOT / "deploy" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    program = (
        "import importlib.metadata as m, re\n"
        "for d in m.distributions(path=[p for p in __import__('sys').path if p.startswith('/opt/venv')]):\n"
        "  print(re.sub('[-_.]+', '-', d.name).lower(), d.version)"
    )
    found = dict(line.split() for line in inside(name, program).splitlines())
    del found["speech-qc"]
    assert found == {name: pinned.get(name) for name in found}


def test_labels_say_what_it_is(image):
    labels = inspect(image)["Config"]["Labels"]
    said = {name.removeprefix("org.opencontainers.image."): value for name, value in labels.items()}
    assert said["title"] == "speech-qc" and said["licenses"] == "Apache-2.0"
    assert said["version"] == __version__ and len(said["revision"]) == 40
    assert said["base.name"].startswith("python:3.11")


def test_the_code_is_a_small_layer_above_the_dependencies():
    sizes = [int(size) for size in docker("history", "--human=false", "--format={{.Size}}", IMAGE).split()]
    copied = [size for size in sizes if size > 1_000_000]
    assert copied[0] < 10_000_000 < copied[1], sizes  # newest first


def test_it_is_not_ready_while_it_drains_and_ends_in_order(lone):
    name, _ = lone
    docker("stop", "--time=60", name)
    state = inspect(name)["State"]
    assert state["ExitCode"] == 0 and not state["OOMKilled"], docker("logs", name)
