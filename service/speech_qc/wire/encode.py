"""Encoding of documents as JSON."""

from __future__ import annotations

from typing import Any

import orjson


def to_json(document: dict[str, Any]) -> bytes:
    """Encode a document that may contain NumPy arrays; NaN becomes null."""
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
