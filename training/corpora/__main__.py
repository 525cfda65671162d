"""Create a corpus folder from a public corpus on disk (`make`) or from another corpus folder's files (`link`).

Sort its speech (`clean`) and validate it (`check`).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from training.corpora.clean import clean
from training.corpora.link import link
from training.corpora.make import Limits, make
from training.corpora.manifest import ManifestError, Stem, hours_by, manifest_sha256, read_manifest, validate
from training.corpora.pauses import SpeechMarksError
from training.corpora.preprocess import load
from training.corpora.recipes import RECIPES, Choice, RecipeError, find
from training.corpora.taxonomy import known_classes

_LIMITS = Limits()
_CHANGES = ("source", "licence", "language")


def main(argv: list[str] | None = None) -> int:
    """Run the command; return the exit code (0 if the corpus is fit for training, else 1)."""
    parser = argparse.ArgumentParser(prog="python -m training.corpora", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="validate a manifest and print hours by kind, language and licence")
    check.add_argument("folder", type=Path, help="folder with manifest.csv and the stems")
    check.add_argument("--read", action="store_true", help="also read and preprocess every file; takes minutes")
    add_make(commands)
    linked = commands.add_parser("link", help="make a corpus folder of another one's files, to clean it instead")
    linked.add_argument("--from", dest="folder", type=Path, required=True, help="corpus folder; it is not changed")
    linked.add_argument("--out", type=Path, required=True, help="folder to write")
    _add_clean(commands)
    options = parser.parse_args(argv)
    console = Console()
    return {"make": _make, "link": _link, "clean": _clean, "check": _check}[options.command](options, console)


def add_make(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `make`."""
    listed = "; ".join(f"{name}: {recipe.about}" for name, recipe in RECIPES.items())
    command = commands.add_parser("make", help="write stems and manifest of a public corpus on disk", epilog=listed)
    command.add_argument("recipe", choices=RECIPES, metavar="RECIPE", help=", ".join(RECIPES))
    command.add_argument("--from", dest="folder", type=Path, required=True, help="the corpus in its publisher's layout")
    command.add_argument("--out", type=Path, required=True, help="corpus folder; rows of other sources are kept")
    command.add_argument(
        "--minutes", type=float, help="maximum minutes of each kind, spread evenly over speakers and classes"
    )
    command.add_argument(
        "--floor", type=float, default=_LIMITS.floor_dbfs, help="dBFS; exclude speech with a louder noise floor"
    )
    command.add_argument("--range", type=float, help="dB; exclude speech with a smaller range (default: per recipe)")
    command.add_argument("--seed", type=int, default=0, help="seed of the selection that --minutes makes")
    command.add_argument("--exclude-language", nargs="+", default=[], help="leave out these languages and speakers")
    command.add_argument("--exclude-speaker", nargs="+", default=[], help="leave out these speakers")
    command.add_argument("--split-by-speaker", action="store_true", help="ignore the publisher's split")
    command.add_argument("--splits-of", type=Path, help="corpus folder; its speakers keep their split")
    for name in _CHANGES:
        command.add_argument(f"--{name}", help=f"use this {name} in every row")


def _add_clean(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("clean", help="cut room tone from the pauses, leave out speech with a background")
    command.add_argument("folder", type=Path, help="corpus folder with speech.npz of training/vad_teacher.py")
    command.add_argument(
        "--range", type=float, default=45.0, help="dB that clean speech lies above its pauses; 35 suits crowd corpora"
    )
    command.add_argument(
        "--floor", type=float, default=_LIMITS.floor_dbfs, help="dBFS; limit of the floor of speech without pauses"
    )
    command.add_argument("--beds-only", action="store_true", help="cut room tone, leave out nothing")


def _link(options: argparse.Namespace, console: Console) -> int:
    try:
        count = link(options.folder, options.out)
    except ManifestError as error:
        console.print(f"[red]not linked[/]: {error}", highlight=False)
        return 1
    console.print(f"linked {count} stems", highlight=False)
    return 0


def _clean(options: argparse.Namespace, console: Console) -> int:
    try:
        account = clean(options.folder, options.range, Limits(floor_dbfs=options.floor), sort=not options.beds_only)
    except (ManifestError, SpeechMarksError) as error:
        console.print(f"[red]not sorted[/]: {error}", highlight=False)
        return 1
    for line in account.lines():
        console.print(line, highlight=False)
    return 0


def _make(options: argparse.Namespace, console: Console) -> int:
    changes = {name: value for name in _CHANGES if (value := getattr(options, name))}
    try:
        known = read_manifest(options.splits_of) if options.splits_of else []
        choice = Choice(
            exclude_languages=frozenset(options.exclude_language),
            exclude_speakers=frozenset(options.exclude_speaker),
            split_by_speaker=options.split_by_speaker,
            known_splits={stem.group: stem.split for stem in known if stem.speaker},
        )
        findings = find(options.recipe, options.folder, **changes, choice=choice)
    except (RecipeError, ManifestError) as error:
        console.print(f"[red]not made[/]: {error}", highlight=False)
        return 1
    span = RECIPES[options.recipe].range_db if options.range is None else options.range
    limits = Limits(minutes=options.minutes, floor_dbfs=options.floor, range_db=span)
    account = make(findings, options.out, limits, seed=options.seed)
    for line in account.lines():
        console.print(line, highlight=False)
    return 0 if account.files else 1


def _check(options: argparse.Namespace, console: Console) -> int:
    try:
        stems = read_manifest(options.folder)
    except ManifestError as error:
        console.print(f"[red]unfit[/]: {error}", highlight=False)
        return 1
    for title, fields in (
        ("kind", ("kind", "split")),
        ("language of speech", ("language", "split")),
        ("licence", ("licence", "kind")),
    ):
        chosen = [stem for stem in stems if stem.kind == "speech"] if title.startswith("language") else stems
        console.print(_table(title, chosen, fields))
    other = sorted({s.sound_class for s in stems if s.kind == "noise"} - known_classes())
    if other:
        console.print(f"classes of unknown cause (cause labels are masked): {', '.join(other)}", highlight=False)
    if options.read:
        _, report = load(options.folder, stems)
        for line in report.lines():
            console.print(line, highlight=False)
    wrong = validate(stems, options.folder)
    for line in wrong:
        console.print(f"[red]unfit[/]: {line}", highlight=False)
    console.print(f"{len(stems)} stems, manifest sha256 {manifest_sha256(options.folder)[:16]}: "
                  f"{'unfit' if wrong else 'fit'} for training", highlight=False)  # fmt: skip
    return 1 if wrong else 0


def _table(title: str, stems: list[Stem], fields: tuple[str, ...]) -> Table:
    table = Table(title=f"minutes by {title}", title_justify="left")
    for name in fields:
        table.add_column(name, overflow="fold")
    table.add_column("minutes", justify="right")
    for key, hours in hours_by(stems, *fields).items():
        table.add_row(*key, f"{hours * 60:.1f}")
    return table


if __name__ == "__main__":
    sys.exit(main())
