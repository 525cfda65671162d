"""Names the kinds of input that once got a wrong answer.

`pytest --collect-only -q tests/cases` prints the table of all kinds, each with its test.
"""

from __future__ import annotations

from typing import Any

import pytest


def kinds(*rows: tuple[Any, ...]) -> Any:
    """Parametrise by kind; the first value of a row is the kind's name."""
    return pytest.mark.parametrize("case", [pytest.param(row[1:], id=row[0]) for row in rows])
