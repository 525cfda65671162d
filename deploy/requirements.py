"""Print what the images install: the dependencies of pyproject.toml for one device. Pin their versions.

    python deploy/requirements.py cpu        requirements for pip
    python deploy/requirements.py gpu
    python deploy/requirements.py pin        resolve the newest compatible versions, write deploy/constraints.txt

On Linux, the package depends on the GPU build of ONNX Runtime, which also runs on the CPU. The CPU image installs the
CPU build, which is the same without 200 MB of CUDA kernels. Both provide the module `onnxruntime`, so an image must
never contain both.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DEVICES = ("cpu", "gpu")
EXTRAS = ("otel", "media", "postgres")
"""Extras that the images include, because operators cannot install them afterwards."""
HEAD = "# Versions in the images; written by `make pin`, which resolves the newest compatible versions.\n"


def requirements(project: dict[str, Any], device: str) -> list[str]:
    """Return the requirements of one image, for pip.

    Args:
        project: The table `project` of pyproject.toml.
        device: `cpu` or `gpu`.

    Raises:
        ValueError: The device is unknown, or the ONNX Runtime requirements in pyproject.toml are not as expected.
    """
    if device not in DEVICES:
        raise ValueError(f"expected cpu or gpu, got {device!r}: name one of them")
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for extra in EXTRAS for line in extras[extra])]
    others = [line for line in lines if not line.startswith("onnxruntime")]
    runtime = [line.split(";")[0].strip() for line in lines if line.startswith("onnxruntime-gpu")]
    cuda = [line.split(";")[0].strip() for line in extras["cuda"] if line.startswith("onnxruntime-gpu[")]
    if len(runtime) != 1 or len(cuda) != 1 or len(lines) != len(others) + 2:
        raise ValueError("expected onnxruntime-gpu and onnxruntime once each, and onnxruntime-gpu[…] in the extra cuda")
    return [*others, *(cuda if device == "gpu" else [runtime[0].replace("onnxruntime-gpu", "onnxruntime")])]


def pinned(project: dict[str, Any]) -> dict[str, str]:
    """Return the versions that pip would install today, by package name, for both devices together."""
    found: dict[str, str] = {}
    for device in reversed(DEVICES):
        args = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
        args += ["--only-binary=:all:", *requirements(project, device)]
        if "onnxruntime-gpu" in found:  # the same version in both images, so that both give the same scores
            args.append(f"onnxruntime=={found['onnxruntime-gpu']}")
        report = json.loads(subprocess.run(args, stdout=subprocess.PIPE, check=True).stdout)
        for one in report["install"]:
            found[re.sub(r"[-_.]+", "-", one["metadata"]["name"]).lower()] = one["metadata"]["version"]
    return dict(sorted(found.items()))


def main(target: str) -> None:
    """Write the pinned versions, or print the requirements of a device."""
    # Next to this file while an image is built, one level up in a checkout.
    file = next(path for path in (HERE / "pyproject.toml", HERE.parent / "pyproject.toml") if path.exists())
    project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    if target == "pin":
        lines = [f"{name}=={version}\n" for name, version in pinned(project).items()]
        (HERE / "constraints.txt").write_text(HEAD + "".join(lines), encoding="utf-8")
    else:
        sys.stdout.write("\n".join(requirements(project, target)) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
