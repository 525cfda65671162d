"""Images and stacks for the tests that require a Docker Engine; `make deploy-test` runs them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker_engine
import pytest
from docker_engine import IMAGE, LOCAL_PYTHON, ROOT, STAND_INS, Stack

from compose_files import services
from speech_qc.version import __version__

HERE = Path(__file__).resolve().parent
RAN = pytest.StashKey[dict[str, str]]()
"""The images that were run, by service, for the report."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run these tests only if selected by their marker and if an engine responds, because they take minutes."""
    ours = [item for item in items if item.get_closest_marker("docker") and HERE in item.path.parents]
    if not ours:
        return
    asked = "docker" in (config.option.markexpr or "")
    reason = docker_engine.why_not() if asked else "needs a Docker Engine: make deploy-test"
    if reason:
        for item in ours:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Report the images that were run, their sizes, and which were substitutes."""
    for service, image in sorted(config.stash.get(RAN, {}).items()):
        size_mb = int(docker_engine.docker("image", "inspect", "--format={{.Size}}", image)) / 1e6
        terminalreporter.write_line(f"{service}: {image}, {size_mb:.0f} MB")


@pytest.fixture(scope="session")
def python_image() -> str:
    """The pinned base of the images, or its substitute."""
    first = next(line for line in (ROOT / "Dockerfile").read_text("utf-8").splitlines() if line.startswith("ARG PY"))
    pinned = first.partition("=")[2]
    if docker_engine.have(pinned):
        return pinned
    if docker_engine.is_here(LOCAL_PYTHON):
        return LOCAL_PYTHON
    pytest.skip(f"neither can {pinned} be pulled nor is there a local {LOCAL_PYTHON}")


@pytest.fixture(scope="session")
def image(python_image: str) -> str:
    """The CPU image of this working tree."""
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    revision = git.stdout.strip() or "unknown"
    docker_engine.build("cpu", IMAGE, PYTHON_IMAGE=python_image, VERSION=__version__, REVISION=revision)
    return IMAGE


@pytest.fixture(scope="session")
def images(image: str, pytestconfig: pytest.Config) -> dict[str, str]:
    """Images that can be run here, by service; a service without an image or a substitute is missing."""
    found = {"speech-qc": image}
    stand_ins = (STAND_INS / "Dockerfile").read_text(encoding="utf-8")
    for name, service in (services("docker-compose.scale.yml") | services("docker-compose.yml")).items():
        if name == "speech-qc":
            continue
        if docker_engine.have(service["image"]):
            found[name] = service["image"]
        elif f" AS {name}\n" in stand_ins:
            found[name] = f"speech-qc-stand-in:{name}"
            docker_engine.build(name, found[name], STAND_INS)
    pytestconfig.stash[RAN] = found
    return found


@pytest.fixture(scope="module")
def watched(images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """docker-compose.yml: one service with its monitoring."""
    chosen = {name: image for name, image in images.items() if name not in ("nginx", "postgres")}
    stack = Stack("speech-qc-test-watched", [], chosen, tmp_path_factory.mktemp("watched"))
    yield from _running(stack)


@pytest.fixture(scope="module")
def scaled(images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """With docker-compose.scale.yml: two replicas behind nginx."""
    chosen = {name: image for name, image in images.items() if name != "grafana"}
    stack = Stack("speech-qc-test-scaled", ["docker-compose.scale.yml"], chosen, tmp_path_factory.mktemp("scaled"))
    yield from _running(stack)


def _running(stack: Stack) -> Iterator[Stack]:
    stack.down()  # leftovers of an aborted run
    try:
        stack.up()
        yield stack
    finally:
        stack.down()
    assert stack.left() == []
