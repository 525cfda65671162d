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

from server_process import ServerProcess
from speech_qc.capacity.host import free_port

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
    """Executables of a virtual environment that contains the wheel, and nothing else of its own.

    The libraries that it needs are borrowed from the environment of this test. The package itself is not: an editable
    installation is found through a `.pth` file, which only its own environment reads.
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


def hostile_folder(folder: Path) -> None:
    """Make a package of the same name where a command is called; importing it fails."""
    (folder / "speech_qc").mkdir()
    (folder / "speech_qc" / "__init__.py").write_text("raise ImportError('this is another package of that name')")


@pytest.mark.slow
def test_an_installed_wheel_inspects_the_sample(installed: Path, tmp_path: Path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    hostile_folder(tmp_path)
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


@pytest.mark.slow
def test_workers_of_an_installed_wheel_start_from_any_folder(installed: Path, tmp_path: Path):
    hostile_folder(tmp_path)
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(installed / "speech-qc"), "serve", "--workers", "2", "--device", "cpu", "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    server = ServerProcess(process, port, tmp_path / "log")
    try:
        server.until(lambda: "2 workers listen" in server.log() or process.poll() is not None, "both workers are up")
        assert process.poll() is None, server.log()
    finally:
        process.terminate()
    assert server.ends() == 0, server.log()
