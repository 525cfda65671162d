"""The wheel as users install it: one import package with its model, and a command that works in any folder."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT)], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory) -> Path:
    """Return the executables of a new virtual environment that contains only the wheel.

    The libraries that it needs come from the environment of this test; its own copy of the package does not, since an
    editable installation is found by a `.pth` file, which only the environment that it belongs to reads.
    """
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, str(wheel)], check=True)
    asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip())
    assert {path.name for path in packages.iterdir()} == {"speech_qc", next(packages.glob("*.dist-info")).name}
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def test_the_wheel_has_one_import_package_with_model_types_console_and_profiles(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (record,) = (name for name in names if name.endswith(".dist-info/RECORD"))
        recorded = {row[0] for row in csv.reader(archive.read(record).decode().splitlines())}
    tops = {name.split("/")[0] for name in names}
    assert tops == {"speech_qc", record.split("/")[0]}
    assert {
        "speech_qc/models/speech-qc-base.onnx",
        "speech_qc/py.typed",
        "speech_qc/web/console.html",
        "speech_qc/scoring/profiles.yaml",
    } <= recorded


@pytest.mark.slow
def test_an_installed_wheel_inspects_the_sample(installed: Path, tmp_path: Path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    (tmp_path / "speech_qc").mkdir()  # a folder of that name in the working directory must not be imported
    command = [str(installed / "speech-qc"), "inspect", str(ROOT / "examples" / "sample.wav"), "--format", "json"]
    run = subprocess.run(
        [*command, "--device", "cpu", "--no-frames"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.returncode in (0, 1), run.stderr
    assert json.loads(run.stdout)["audio"]["duration_s"] > 9

    program = (
        "import speech_qc, pathlib; from speech_qc.settings import default_model_path; "
        "print(default_model_path()); print(pathlib.Path(speech_qc.__file__).parent)"
    )
    asked = [str(installed / "python"), "-P", "-c", program]
    model, package = subprocess.run(
        asked, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    assert Path(model).parent.parent == Path(package)
    assert installed.parent in Path(package).parents, "the package that was asked is the installed one"
