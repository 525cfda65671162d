"""Phrases that made readers stop, and that should not come back in documents, help texts, messages and comments.

Each is English of a kind: a riddle where the field has a term, or a server that speaks and listens. Add what you find.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

BANNED = tuple(
    line.strip()
    for line in """
PHRASES
""".strip().splitlines()
)
"""Lower case, matched in text whose line breaks are spaces."""

FOLDERS = ("service", "training", "benchmarks", "examples", "deploy")
DOCUMENTS = ("*.md", "docs/*.md", "models/*.md", "examples/*.md")
OTHER_FILES = ("Makefile", "Dockerfile", "docker-compose*.yml", "deploy/**/*.yml", "deploy/**/*.conf", "deploy/*.sh",
               "service/**/*.html", "service/**/*.yaml", "training/**/*.yaml", "pyproject.toml", ".ci/run")  # fmt: skip
RECORDED = {"RESULTS.md"}
"""What commands have printed, and not what somebody wrote."""


def flat(text: str) -> str:
    """One line, lower case, without the marks of comments and quotes between its words."""
    return re.sub(r"[\s#>*]+", " ", text).lower()


def words_of(path: Path) -> Iterator[tuple[int, str]]:
    """Comments and strings of a Python file, adjacent comments together, by line."""
    comment, start = "", 0
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type == tokenize.COMMENT:
            comment, start = f"{comment} {token.string}", start or token.start[0]
            continue
        if token.type in (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
            continue
        if comment:
            yield start, comment
            comment, start = "", 0
        if token.type == tokenize.STRING or tokenize.tok_name[token.type] == "FSTRING_MIDDLE":
            yield token.start[0], token.string
    if comment:
        yield start, comment


def texts() -> list[tuple[str, list[tuple[int, str]]]]:
    found = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            found.append((str(path.relative_to(ROOT)), list(words_of(path))))
    for pattern in (*DOCUMENTS, *OTHER_FILES):
        for path in sorted(ROOT.glob(pattern)):
            if path.name not in RECORDED:
                found.append((str(path.relative_to(ROOT)), [(1, path.read_text(encoding="utf-8"))]))
    return found


TEXTS = texts()


@pytest.mark.parametrize("phrase", BANNED)
def test_a_phrase_that_made_readers_stop_does_not_come_back(phrase):
    found = [f"{name}:{line}" for name, parts in TEXTS for line, text in parts if phrase in flat(text)]
    assert not found, f"{phrase!r}: say it as the field does"


def test_the_walk_finds_phrases_over_line_breaks_and_in_comments(tmp_path):
    file = tmp_path / "one.py"
    file.write_text('"""Ends when all is\nover for them."""\n# this comes\n# in\nx = f"goes {1} away"\n')
    parts = [flat(text) for _, text in words_of(file)]
    assert any("all is over" in part for part in parts)
    assert any("comes in" in part for part in parts)
    assert len(TEXTS) > 150
