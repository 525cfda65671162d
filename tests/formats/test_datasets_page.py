"""The examples of docs/datasets.md are run, in their order and in one folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from speech_qc.cli.options import ExportFormat
from speech_qc.columns import COLUMNS
from speech_qc.engine import OnnxRunner

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.M | re.S)
NUMBER = re.compile(r"\d+\.\d+")


@pytest.mark.slow
def test_the_examples_do_what_the_page_shows(tmp_path: Path, sample_path: Path):
    for name in ("datasets", "lhotse"):
        pytest.importorskip(name, reason=f"install the extra for {name}")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "speech-qc"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m speech_qc "$@"\n')
    program.chmod(0o755)
    (tmp_path / "place" / "calls").mkdir(parents=True)
    for name in ("a.wav", "b.wav"):
        shutil.copy(sample_path, tmp_path / "place" / "calls" / name)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(str(path) for path in (ROOT / "service", ROOT)),
        "SPEECHQC_DEVICE": "cpu",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_DATASETS_OFFLINE": "1",
    }
    shown = [*BLOCKS[1:], ("", "")]
    run = 0
    for (language, body), (following, expected) in zip(BLOCKS, shown, strict=True):
        if language not in ("sh", "python"):
            continue
        words = ["bash", "-euc", body] if language == "sh" else [sys.executable, "-c", body]
        done = subprocess.run(
            words, cwd=tmp_path / "place", env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{body}\n{done.stdout}{done.stderr}"
        run += 1
        if following == "text":
            assert NUMBER.sub("#", done.stdout) == NUMBER.sub("#", expected), body
            ours = [float(number) for number in NUMBER.findall(expected)]
            # Other processors round differently, so a score near a threshold may cross it one frame earlier.
            assert [float(number) for number in NUMBER.findall(done.stdout)] == pytest.approx(ours, abs=0.05)
    assert run == 12
    tasks = (tmp_path / "place" / "tasks.json").read_text()
    assert "/data/local-files/?d=calls/a.wav" in tasks
    assert list((tmp_path / "place" / "labels").rglob("a.wav*.txt"))


def test_every_column_and_format_is_documented():
    for name in COLUMNS:
        assert f"`{name}`" in PAGE, name
    for form in ExportFormat:
        assert f"--format {form}" in PAGE or f"`{form}`" in PAGE, form


def test_the_labelling_interface_has_every_label_with_events(shipped_runner: OnnxRunner):
    (config,) = (body for language, body in BLOCKS if language == "xml")
    labels = [one.get("value") for one in ElementTree.fromstring(config).iter("Label")]
    contract = shipped_runner.contract
    expected = {one.name for one in contract.labels if one.kind == "probability" and one.name != "speech"}
    assert set(labels) == expected
    assert len(labels) == len(expected)
