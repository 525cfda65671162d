"""`python -m training.corpora check FOLDER`: validate a manifest and print what it holds."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from training.corpora.manifest import ManifestError, Stem, hours_by, manifest_sha256, read_manifest, validate
from training.corpora.preprocess import load
from training.corpora.taxonomy import known_classes


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code (0 fit for training, 1 not)."""
    parser = argparse.ArgumentParser(prog="python -m training.corpora", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="validate a manifest and print hours by kind, language and licence")
    check.add_argument("folder", type=Path, help="folder that holds manifest.csv and the stems")
    check.add_argument("--read", action="store_true", help="also read and preprocess every file (minutes)")
    options = parser.parse_args(argv)
    console = Console()
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
        console.print(f"classes of unknown cause (their causes are masked): {', '.join(other)}", highlight=False)
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
