"""Make a model by a recipe: `python -m training.recipe RECIPE --data CORPUS --out FOLDER`.

The stages are commands that can also be run by hand: parts of the corpus, their join, speech labels, rated clips,
training runs, export, report and card. What is done is recorded in FOLDER/recipe.json. The same command continues an
interrupted recipe; if a part of the recipe or a file changed, it repeats the stages from the first one that depends on
it. A change of one part of the corpus does not repeat the other parts.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from training.config import ConfigError, nearest
from training.corpora.manifest import ManifestError
from training.ledger import Ledger, StageError, run_stages
from training.recipe_config import read_recipe
from training.stage_commands import TEACHERS, Places
from training.stages import make_stages

LEDGER = "recipe.json"


def _pairs(option: str, given: Iterable[str]) -> dict[str, Path]:
    """Read `NAME=PATH` options."""
    found: dict[str, Path] = {}
    for text in given:
        name, sign, path = text.partition("=")
        if not (name and sign and path):
            raise ConfigError(f"{option}: expected NAME=PATH, got {text}")
        found[name] = Path(path)
    return found


def _places(options: argparse.Namespace) -> Places:
    teachers = _pairs("--teacher-python", options.teacher_python)
    for name in teachers:
        if name not in TEACHERS:
            raise ConfigError(f"--teacher-python {name}: no such teacher, {nearest(name, TEACHERS)}")
    return Places(options.data, options.out, options.figures_data, _pairs("--from", options.downloads), teachers)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.recipe", description=__doc__)
    parser.add_argument("recipe", type=Path, help="YAML file, for instance training/recipes/base-0.5.1.yaml")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="corpus folder; made if it has no manifest, from parts in CORPUS-parts",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for runs, model file, report and card")
    parser.add_argument("--figures-data", type=Path, help="corpus folder for the figures (default: that of --data)")
    parser.add_argument(
        "--from",
        dest="downloads",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="a downloaded corpus, or a corpus folder to join",
    )
    parser.add_argument(
        "--teacher-python", action="append", default=[], metavar="NAME=PYTHON",
        help=f"interpreter of a teacher: {', '.join(TEACHERS)}",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parser().parse_args(argv)
    try:
        recipe, ledger = read_recipe(options.recipe), Ledger(options.out / LEDGER)
        for line in run_stages(make_stages(recipe, _places(options), ledger), ledger):
            print(line, flush=True)  # noqa: T201
    except (ConfigError, ManifestError, StageError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command continues here", file=sys.stderr)  # noqa: T201
        return 130
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a teacher must not outlive the recipe
    sys.exit(main())
