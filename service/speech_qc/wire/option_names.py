"""Check the names of options in a query or a form, before their values.

A misspelt option would silently take its default, and of a repeated one only the first or the last would count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from speech_qc.errors import ProtocolError

NAME_CHARS = 64
"""Maximum length of a name in an error message."""

SIMILARITY = 0.65
"""Minimum similarity, 0 to 1, of a known name to suggest it."""


def single_options(pairs: Iterable[tuple[str, str]], known: Sequence[str]) -> dict[str, str]:
    """Return options by name.

    Args:
        pairs: Decoded names and values, in the order in which they were sent.
        known: Names of all options of this endpoint.

    Raises:
        ProtocolError: A name is unknown, or occurs twice.
    """
    pairs = list(pairs)
    unknown = sorted({name for name, _ in pairs} - set(known))
    if unknown:
        raise unknown_options(unknown, known)
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise ProtocolError(
            f"expected each option once, got {', '.join(twice)} more than once: keep one of them", repeated=twice
        )
    return dict(pairs)


def unknown_options(unknown: Sequence[str], known: Sequence[str]) -> ProtocolError:
    """Return the error for names that do not exist; it suggests the nearest names that do."""
    short = [name[:NAME_CHARS] for name in unknown]
    nearest = {name: found for name in short if (found := nearest_name(name, known)) is not None}
    advice = "correct it, or leave it out"
    if nearest:
        advice = f"did you mean {' and '.join(repr(name) for name in dict.fromkeys(nearest.values()))}?"
    return ProtocolError(
        f"expected options from {', '.join(known)}; got {', '.join(map(repr, short))}: {advice}",
        unknown=short,
        known=list(known),
        nearest=nearest,
    )


def nearest_name(name: str, known: Sequence[str]) -> str | None:
    """Return the known name that contains this one as a word, or else the most similar one; None if none is similar."""
    asked = name[:NAME_CHARS].lower().replace("-", "_")
    similar = (one for one in known if asked in one.lower().split("_"))
    return next(similar, None) or next(iter(get_close_matches(asked, known, n=1, cutoff=SIMILARITY)), None)


LEG_CHARS = 64
"""Maximum length of the name of a leg."""


def leg_names(text: str, option: str, count: int) -> tuple[str, ...]:
    """Read the comma-separated names of legs.

    Args:
        text: The names, such as `agent,customer`.
        option: Name of the option, for messages.
        count: How many legs there are.

    Raises:
        ProtocolError: There are more or fewer names, or one is repeated, empty, too long or not printable.
    """
    names = tuple(name.strip() for name in text.split(","))
    good = all(name.isprintable() and 0 < len(name) <= LEG_CHARS for name in names)
    if len(names) != count or len(set(names)) != count or not good:
        wanted = f"{count} different names" if count > 1 else "one name"
        advice = "name the channels in their order, as in agent,customer" if count > 1 else "name one leg"
        raise ProtocolError(
            f"{option}: expected {wanted} of at most {LEG_CHARS} characters, got {text[:200]!r}: {advice}",
            option=option,
            count=count,
        )
    return names
