"""What the images install: the dependencies of pyproject.toml for one of two devices, and the versions they have.

    python deploy/requirements.py cpu        lines for pip
    python deploy/requirements.py gpu
    python deploy/requirements.py pin        ask pip for the newest versions that fit, write deploy/constraints.txt

On Linux the package asks for the GPU build of ONNX Runtime, which runs on the CPU as well. The CPU image takes the
other build, which is the same without 200 MB of CUDA kernels. Both bring the module `onnxruntime`, so never both.
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
EXTRAS = ("otel",)
"""What an operator may switch on by a setting and cannot install into an image."""
HEAD = "# Versions in the images; made by `make pin`, which takes the newest that fit together.\n"


def requirements(project: dict[str, Any], device: str) -> list[str]:
    """Lines for pip.

    Args:
        project: The table `project` of pyproject.toml.
        device: `cpu` or `gpu`.

    Raises:
        ValueError: Another device, or pyproject.toml asks for ONNX Runtime in a way that is not known here.
    """
    if device not in DEVICES:
        raise ValueError(f"expected cpu or gpu, came {device!r}")
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(line for extra in EXTRAS for line in extras[extra])]
    rest = [line for line in asked if not line.startswith("onnxruntime")]
    runtime = [line.split(";")[0].strip() for line in asked if line.startswith("onnxruntime-gpu")]
    cuda = [line.split(";")[0].strip() for line in extras["cuda"] if line.startswith("onnxruntime-gpu[")]
    if len(runtime) != 1 or len(cuda) != 1 or len(asked) != len(rest) + 2:
        raise ValueError("expected onnxruntime-gpu and onnxruntime once each, and onnxruntime-gpu[…] in the extra cuda")
    return [*rest, *(cuda if device == "gpu" else [runtime[0].replace("onnxruntime-gpu", "onnxruntime")])]


def pinned(project: dict[str, Any]) -> dict[str, str]:
    """Versions by name that pip would install today, those of both devices together."""
    found: dict[str, str] = {}
    for device in reversed(DEVICES):
        words = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
        words += ["--only-binary=:all:", *requirements(project, device)]
        if "onnxruntime-gpu" in found:  # one version in both images, so that they give the same scores
            words.append(f"onnxruntime=={found['onnxruntime-gpu']}")
        report = json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout)
        for one in report["install"]:
            found[re.sub(r"[-_.]+", "-", one["metadata"]["name"]).lower()] = one["metadata"]["version"]
    return dict(sorted(found.items()))


def main(word: str) -> None:
    """Do what the word says."""
    # Beside this file while an image is built, above it in a checkout.
    file = next(path for path in (HERE / "pyproject.toml", HERE.parent / "pyproject.toml") if path.exists())
    project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    if word == "pin":
        lines = [f"{name}=={version}\n" for name, version in pinned(project).items()]
        (HERE / "constraints.txt").write_text(HEAD + "".join(lines), encoding="utf-8")
    else:
        sys.stdout.write("\n".join(requirements(project, word)) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
