from __future__ import annotations

from pathlib import Path

import pytest
from cli_material import PROFILES, noise, write


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty folder with profiles whose verdicts are known."""
    profiles = tmp_path / "profiles.yaml"
    profiles.write_text(PROFILES)
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.setenv("SPEECHQC_PROFILES_PATH", str(profiles))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def talk(workplace: Path) -> Path:
    """A recording of two seconds."""
    return write(Path("talk.wav"), noise(2.0))
