"""Print what an image needs: the dependencies of pyproject.toml, for one of the two devices.

    python deploy/requirements.py cpu

On Linux the package asks for the GPU build of ONNX Runtime, which runs on the CPU as well. The CPU image takes the other
build, which is the same code without 300 MB of CUDA kernels. Both bring the module `onnxruntime`, so never both.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

EXTRAS = ("otel",)
"""What an operator may switch on by a setting and cannot install into an image."""


def requirements(project: dict[str, object], device: str) -> list[str]:
    """Lines for pip.

    Args:
        project: The table `project` of pyproject.toml.
        device: `cpu` or `gpu`.

    Raises:
        ValueError: Another device, or pyproject.toml asks for ONNX Runtime in a way that is not known here.
    """
    if device not in ("cpu", "gpu"):
        raise ValueError(f"expected cpu or gpu, came {device!r}")
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(line for extra in EXTRAS for line in extras[extra])]  # type: ignore[misc, index]
    rest = [line for line in asked if not line.startswith("onnxruntime")]
    runtimes = [line for line in asked if line.startswith("onnxruntime-gpu")]
    if len(runtimes) != 1 or len(asked) != len(rest) + 2:
        raise ValueError("expected onnxruntime-gpu and onnxruntime once each among the dependencies")
    gpu = extras["cuda"][0].split(";")[0].strip()  # type: ignore[index]
    cpu = runtimes[0].split(";")[0].strip().replace("onnxruntime-gpu", "onnxruntime")
    return [*rest, cpu if device == "cpu" else gpu]


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    file = next(path for path in (here / "pyproject.toml", here.parent / "pyproject.toml") if path.exists())
    sys.stdout.write("\n".join(requirements(tomllib.loads(file.read_text("utf-8"))["project"], sys.argv[1])) + "\n")
