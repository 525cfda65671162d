"""The commands and the example of `docs/archives.md` do what the page says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from archive_material import SERVICE, write_clips

from speech_qc.archive.schema import ROWS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "archives.md").read_text(encoding="utf-8")


def test_from_a_folder_to_a_report_in_three_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = re.search(r"```sh\n(.+?)```", PAGE, re.S)
    assert block is not None
    install, *commands = [shlex.split(line) for line in block[1].splitlines()]
    assert len(commands) == 2 and install[:2] == ["pip", "install"]
    extra = re.fullmatch(r"speech-qc\[(\w+)\]", install[2])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert extra is not None and extra[1] in project["optional-dependencies"]

    write_clips(tmp_path / "recordings", 3)
    for program, *arguments in commands:
        assert program == "speech-qc"
        subprocess.run(
            [sys.executable, "-m", "speech_qc", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(SERVICE)},
            check=True,
        )
    assert (tmp_path / "results" / "_report" / "report.html").is_file()

    example = re.search(r"```python\n(.+?)```", PAGE, re.S)
    assert example is not None
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(example[1], names)
    assert names["rows"].count_rows() == 3  # type: ignore[attr-defined]


def test_every_column_is_documented() -> None:
    section = PAGE.split("\n## Results\n")[1].split("\n## ")[0]
    documented = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.+?) \|", section, re.M))))
    assert documented == set(ROWS.names)


def test_without_pyarrow_the_command_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None; from speech_qc.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "archive", str(tmp_path), "--out", str(tmp_path / "out")],
        env=os.environ | {"PYTHONPATH": str(SERVICE)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "pip install 'speech-qc[archive]'" in done.stderr
