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
all that was heard
anybody there
are as ever
asked anew
at the door
at the most
blinded by
breaks it off
broke off
broken off
by himself
by itself
by way of
came none
came something else
came too slowly
cannot be had
cannot be made so
closed unheard
come and go
come in order
come into being
come late
could be had
could not be had
delays anybody
detectors of others
everything is forgotten
for its turn
for want of a gpu
found no place
free to share
gave up
given up
given up unrun
goes away
going away
has heard nothing
in the making
in the midst of
is going away
is it true
is over by itself
it is as it was
its watch
keeps strangers out
labels out of
last words
late long before
least verdict
left over and not scored
less full steps
let go of
looks by the clock
looks through all
looks whether
made anew
may come in
may not come in
mended by what
model file anew
nobody could use
nobody hears
nobody is called
nobody speaks
none came
not to be had
nothing phones home
of no use
on its way
on the way
on their way
once is over
options out of
out of turn
over by itself
python's lock
say the close
say the summary
score what came
sets nothing
so far came
so many seconds
some thousand
something unexpected went wrong
speaks no
stands still
stood still
strangers out
taken in turn
that this is meant
the keys were read
the net is torn
the server goes away
the stream goes on
the time of the token
the very same
the whole story
the word to stop
time to drain is over
to the bottom
told to stop
turns connections away
under way
wants a key
way against way
what becomes of
what came of
what speaks for
what to mend
whatever is set
when to come again
where messages do
who has a key
who may come in
whoever comes
without a word
writes it down
written anew
""".strip().splitlines()
)
"""Lower case, matched in text whose line breaks are spaces."""

FOLDERS = ("service", "training", "benchmarks", "examples", "deploy", "tests")
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
            if path == Path(__file__).resolve():
                continue
            found.append((str(path.relative_to(ROOT)), [(line, flat(text)) for line, text in words_of(path)]))
    for pattern in (*DOCUMENTS, *OTHER_FILES):
        for path in sorted(ROOT.glob(pattern)):
            if path.name not in RECORDED:
                found.append((str(path.relative_to(ROOT)), [(1, flat(path.read_text(encoding="utf-8")))]))
    return found


TEXTS = texts()


@pytest.mark.parametrize("phrase", BANNED)
def test_a_phrase_that_made_readers_stop_does_not_come_back(phrase):
    found = [f"{name}:{line}" for name, parts in TEXTS for line, text in parts if phrase in text]
    assert not found, f"{phrase!r}: say it as the field does"


def test_the_walk_finds_phrases_over_line_breaks_and_in_comments(tmp_path):
    file = tmp_path / "one.py"
    file.write_text('"""Ends when all is\nover for them."""\n# this comes\n# in\nx = f"goes {1} away"\n')
    parts = [flat(text) for _, text in words_of(file)]
    assert any("all is over" in part for part in parts)
    assert any("comes in" in part for part in parts)
    assert len(TEXTS) > 150
