"""Compare answers whose numbers may differ by the tolerance of scores."""

from __future__ import annotations

from typing import Any

import pytest

TOLERANCE = 1e-4


def assert_close(found: Any, expected: Any, where: str = "") -> None:
    """Compare two parts of answers; numbers may differ by the tolerance of scores, which they are made from."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for name, value in expected.items():
            assert_close(found[name], value, f"{where}.{name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for index, value in enumerate(expected):
            assert_close(found[index], value, f"{where}[{index}]")
    elif isinstance(expected, float) and isinstance(found, float):
        assert found == pytest.approx(expected, rel=0, abs=TOLERANCE), where
    else:
        assert found == expected, where
