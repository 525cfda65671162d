"""Find audio in a text message: many services take it as base64 in JSON, this one takes binary messages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic_core import from_json

MAX_DEPTH = 6
"""Levels of objects and lists that are searched."""

NUMBERS = 16
"""Minimum numbers in a list to take it for samples."""

NAMED_AUDIO, NAMED_DATA, UNNAMED = 4, 40, 200
"""Minimum length of base64 text, by how clearly its names say that it is audio; identifiers are shorter."""

KIND_NAMES = ("type", "event", "message_type")
"""Names with which protocols say what a message is."""

_BASE64 = re.compile(r"(data:[\w/;=.+-]*,)?[A-Za-z0-9+/_-]+={0,2}")
_AUDIO_NAME = re.compile("audio|media|speech|sound|pcm|wave?|voice", re.IGNORECASE)
_DATA_NAME = re.compile(  # at the end: `audio_format` and `data_type` describe it
    r"(audio|payload|data|chunk|buffer|samples?|content|bytes|pcm|wave?|media|speech|blob|raw)(_?(base|b)64|16|32)?\Z",
    re.IGNORECASE,
)


def find_text_audio(text: str) -> str | None:
    """Return where a text message holds audio, such as `media.payload`; None if it seems to hold none.

    Args:
        text: JSON, or base64 text alone; at most a few ten thousand characters.
    """
    try:
        document = from_json(text)
    except ValueError:
        return "the message" if _is_base64(text.strip(), UNNAMED) else None
    kinds = [document.get(name) for name in KIND_NAMES] if isinstance(document, dict) else []
    says_audio = any(isinstance(kind, str) and _AUDIO_NAME.search(kind) for kind in kinds)
    found = (place for place, value in _values(document) if _is_audio(place, value, says_audio))
    return next((place or "the message" for place in found), None)


def _is_audio(place: str, value: Any, says_audio: bool) -> bool:
    """Whether one value of a message is audio, by its type, its length and its name."""
    if isinstance(value, list):
        return len(value) >= NUMBERS and all(isinstance(number, int | float) for number in value)
    name = place.rpartition(".")[2]
    least = UNNAMED
    if _DATA_NAME.search(name):
        least = NAMED_AUDIO if says_audio or _AUDIO_NAME.search(name) else NAMED_DATA
    return isinstance(value, str) and _is_base64(value, least)


def _is_base64(text: str, least: int) -> bool:
    return len(text) >= least and _BASE64.fullmatch(text) is not None


def _values(value: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield each value inside an object or list with the path of names to it."""
    if isinstance(value, dict) and depth < MAX_DEPTH:
        for name, inner in value.items():
            yield from _values(inner, f"{place}.{name[:40]}" if place else name[:40], depth + 1)
        return
    if isinstance(value, list) and depth < MAX_DEPTH:
        for inner in value:
            if isinstance(inner, dict | str | list):
                yield from _values(inner, place, depth + 1)
    yield place, value
