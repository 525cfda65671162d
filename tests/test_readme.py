"""The README shows the actual output of the program."""

import re
from pathlib import Path

import pytest

from speech_qc.cli.main import main

ROOT = Path(__file__).resolve().parent.parent
EVENT = re.compile(r"^(?P<label>[a-z_]+) +(?P<onset>\d+\.\d\d) +(?P<offset>\d+\.\d\d) +\d", re.M)
ROW = re.compile(r"^examples/sample\.wav +9\.97 s +(?P<verdict>\w+) +(?P<quality>\d+) +(?P<snr>-?[\d.]+)", re.M)


@pytest.fixture
def printed(capfd, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SPEECHQC_DEVICE", "cpu")
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["inspect", "examples/sample.wav"]) == 0
    return capfd.readouterr().out


@pytest.mark.parametrize("document", ["README.md", "docs/cli.md"])
def test_the_sample_output_is_real(printed, document):
    shown = (ROOT / document).read_text(encoding="utf-8")
    a, b = ROW.search(shown), ROW.search(printed)
    assert a is not None and b is not None
    assert a["verdict"] == b["verdict"]
    assert float(a["quality"]) == pytest.approx(float(b["quality"]), abs=1)
    assert float(a["snr"]) == pytest.approx(float(b["snr"]), abs=0.2)
    ours, theirs = (
        [(m["label"], float(m["onset"]), float(m["offset"])) for m in EVENT.finditer(text)] for text in (shown, printed)
    )
    assert [event[0] for event in ours] == [event[0] for event in theirs]
    for mine, real in zip(ours, theirs, strict=True):
        # Other processors round differently, so a score near a threshold may cross it one frame earlier.
        assert mine[1:] == pytest.approx(real[1:], abs=0.05)
