"""Which stages of a recipe are done: a stage is done if its inputs and outputs are those of its last complete run."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from training.config import ConfigError


class StageError(Exception):
    """A stage failed; the message names it and says how to go on."""


@dataclass(frozen=True, slots=True)
class Command:
    """What a stage runs.

    Args:
        text: The command, for people.
        run: Returns an exit code. If it was interrupted, it continues where it was.
    """

    text: str
    run: Callable[[], int]


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a recipe.

    Args:
        name: Unique in the recipe.
        command: What is run.
        inputs: Returns all that the outputs depend on, as JSON, by names that a person understands. It is called when
            all stages before are done.
        outputs: Files that must exist afterwards, unchanged since. Outputs that later stages change do not belong here.
        clear: Files and folders to remove before the stage is run with other inputs, so that nothing is continued.
        unneeded: Returns why the stage need not be run, although this recipe never ran it; None if it must.
        alone: It depends on its inputs only, and is not repeated because an earlier stage was.
    """

    name: str
    command: Command
    inputs: Callable[[], dict[str, Any]]
    outputs: tuple[Path, ...]
    clear: tuple[Path, ...] = ()
    unneeded: Callable[[], str | None] = lambda: None
    alone: bool = False


class Ledger:
    """Records of stages in a JSON file, written before and after each stage.

    Raises:
        ConfigError: The file exists but is not such a file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records: dict[str, dict[str, Any]] = {}
        if path.exists():
            try:
                self._records = dict(json.loads(path.read_text(encoding="utf-8"))["stages"])
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(f"expected a record of stages in {path}: {error}; remove it to start anew") from error

    def knows(self, name: str) -> bool:
        """Return whether a stage was ever begun."""
        return name in self._records

    def due(self, stage: Stage, inputs: Mapping[str, Any]) -> str | None:
        """Return why a stage must be run; None if it is done."""
        record = self._records.get(stage.name)
        if record is None:
            return "not done yet"
        other = _differing(record["inputs"], inputs)
        if other:
            return f"changed: {', '.join(other)}"
        if "done" not in record:
            return "interrupted, continues"
        changed = [str(path) for path in stage.outputs if file_sha256(path) != record["outputs"].get(str(path))]
        return f"missing or changed output: {', '.join(changed)}" if changed else None

    def done_at(self, name: str) -> str:
        """Return when a stage was completed, in UTC."""
        return str(self._records[name]["done"])

    def begin(self, stage: Stage, inputs: Mapping[str, Any]) -> None:
        """Record that a stage runs; remove what is left of it, unless it was interrupted with the same inputs."""
        record = self._records.get(stage.name)
        if record is not None and ("done" in record or _differing(record["inputs"], inputs)):
            for path in stage.clear:
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        self._write(stage.name, {"inputs": inputs})

    def finish(self, stage: Stage, inputs: Mapping[str, Any]) -> None:
        """Record that a stage is done.

        Raises:
            StageError: An output is missing.
        """
        outputs = {str(path): file_sha256(path) for path in stage.outputs}
        missing = [path for path, digest in outputs.items() if digest is None]
        if missing:
            raise StageError(f"{stage.name}: expected {', '.join(missing)} after `{stage.command.text}`, found none")
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._write(stage.name, {"inputs": inputs, "outputs": outputs, "done": now})

    def _write(self, name: str, record: Mapping[str, Any]) -> None:
        self._records[name] = json.loads(json.dumps(record))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps({"stages": self._records}, indent=1) + "\n", encoding="utf-8")
        partial.replace(self._path)


def run_stages(stages: Sequence[Stage], ledger: Ledger) -> Iterator[str]:
    """Run all stages that are due, and those after the first of them that are not `alone`.

    Yields:
        A line for each stage, before it is run.

    Raises:
        StageError: A stage failed. All stages before it are done.
    """
    first: str | None = None
    for stage in stages:
        note = stage.unneeded()
        if note is not None:
            yield f"{stage.name}: skipped, {note}"
            continue
        inputs = json.loads(json.dumps(stage.inputs()))
        reason = ledger.due(stage, inputs) or (f"after {first}" if first and not stage.alone else None)
        if reason is None:
            yield f"{stage.name}: skipped, done {ledger.done_at(stage.name)} with the same inputs"
            continue
        yield f"{stage.name}: {reason}\n  {stage.command.text}"
        first = first or stage.name
        ledger.begin(stage, inputs)
        code = stage.command.run()
        if code:
            raise StageError(f"{stage.name}: exit code {code}; its message is above. The same command continues here")
        ledger.finish(stage, inputs)


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def file_sha256(path: Path) -> str | None:
    """Return the SHA-256 of a file; None if there is none."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
