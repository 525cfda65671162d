"""Names the kinds of input that once got a wrong answer, and marks those that still do.

`pytest --collect-only -q tests/cases` prints the table of all kinds, each with its test.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

TO_BE_BUILT: dict[str, str] = {
    **dict.fromkeys(
        (
            "edge_zeros_16k", "edge_zeros_8k", "adpcm_padding_16k", "adpcm_padding_8k", "gated", "dtx",
            "comfort_noise", "stop_closures", "packets_lost",
        ),
        "dropouts are found in mel images, not in samples",
    ),
    **dict.fromkeys(
        (
            "upsampled_polyphase", "upsampled_linear", "upsampled_repeated", "upsampled_hiss", "whine",
            "opposite_polarity", "hum",
        ),
        "no measure describes it",
    ),
}  # fmt: skip
"""Kinds that are not right yet, with the reason; a kind leaves this table when it is built."""


def kinds(*rows: tuple[Any, ...]) -> Any:
    """Parametrise by kind; the first value of a row is the kind's name."""
    return pytest.mark.parametrize("case", [_case(row[0], row[1:]) for row in rows])


def _case(kind: str, values: tuple[Any, ...]) -> Any:
    marks = [pytest.mark.xfail(strict=False, reason=TO_BE_BUILT[kind])] if kind in TO_BE_BUILT else []
    return pytest.param(values, id=kind, marks=marks)


def kind(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Name the kind of a test that stands alone."""
    if name in TO_BE_BUILT:
        return pytest.mark.xfail(strict=False, reason=TO_BE_BUILT[name])
    return lambda test: test
