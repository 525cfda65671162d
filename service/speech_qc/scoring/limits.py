"""A limit of a profile: the bounds of one measure, and the points that a value gets.

Points are the scale on which different measures are compared: 100 is as good as this use needs, 70 is the warn limit,
40 is the fail limit and 0 is useless. Between bounds they change linearly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from pydantic import BaseModel, ConfigDict, model_validator

FULL_POINTS, WARN_POINTS, FAIL_POINTS = 100.0, 70.0, 40.0
BEYOND = 0.01
"""Points by which a value beyond a limit is at least below the points of the limit."""
ORDER = ("zero_below", "fail_below", "warn_below", "full_from", "full_to", "warn_above", "fail_above", "zero_above")
LIMITS = ("fail_below", "warn_below", "warn_above", "fail_above")

_Knots = Sequence[tuple[float, float]]
"""(badness, points) in ascending order of badness."""


class Limit(BaseModel):
    """Bounds of one measure; a value equal to a bound does not violate it.

    `warn_…` and `fail_…` are the limits. `full_from` and `full_to` bound the values with 100 points, `zero_below` and
    `zero_above` those with 0 points. Where these are missing, points continue beyond the limits at the slope between
    warn and fail. If only one of warn and fail is set, values within it have 100 points.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    warn_below: float | None = None
    fail_below: float | None = None
    warn_above: float | None = None
    fail_above: float | None = None
    full_from: float | None = None
    zero_below: float | None = None
    full_to: float | None = None
    zero_above: float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Limit:
        if all(getattr(self, name) is None for name in LIMITS):
            raise ValueError("expected at least one of warn_below, fail_below, warn_above, fail_above, got none")
        given = [value for name in ORDER if (value := getattr(self, name)) is not None]
        if given != sorted(given):
            raise ValueError(
                f"expected {' <= '.join(name for name in ORDER if getattr(self, name) is not None)}, "
                f"got {', '.join(f'{bound:g}' for bound in given)} in that order"
            )
        for full, zero, side in (("full_from", "zero_below", "below"), ("full_to", "zero_above", "above")):
            both = [getattr(self, f"{word}_{side}") is not None for word in ("warn", "fail")]
            extra = [name for name in (full, zero) if getattr(self, name) is not None]
            if extra and not all(both):
                raise ValueError(f"{', '.join(extra)} needs both warn_{side} and fail_{side}")
        return self

    def given(self) -> Iterable[tuple[str, float]]:
        """List the bounds that are set, by name."""
        return ((name, value) for name, value in self if value is not None)

    def points(self, value: float, low: float, high: float) -> float:
        """Return the points of a value, 0 to 100.

        Args:
            value: The value of the measure.
            low: Lowest possible value of the measure.
            high: Highest possible value.
        """
        below = _side_points(-value, self.warn_below, self.fail_below, self.full_from, self.zero_below, -low, -high)
        above = _side_points(value, self.warn_above, self.fail_above, self.full_to, self.zero_above, high, low, sign=1)
        return min(below, above)


def _side_points(
    badness: float,
    warn: float | None,
    fail: float | None,
    full: float | None,
    zero: float | None,
    worst: float,
    best: float,
    *,
    sign: int = -1,
) -> float:
    """Return the points by one side's bounds; `badness`, `worst` and `best` are values times `sign`."""
    warn, fail, full, zero = (None if bound is None else sign * bound for bound in (warn, fail, full, zero))
    if warn is not None and fail is not None:
        step = fail - warn
        full = max(best, warn - step) if full is None else full
        zero = min(worst, fail + step * FAIL_POINTS / (WARN_POINTS - FAIL_POINTS)) if zero is None else zero
        points = _interpolate(badness, ((full, FULL_POINTS), (warn, WARN_POINTS), (fail, FAIL_POINTS), (zero, 0.0)))
    elif warn is not None:  # it can only warn
        points = FULL_POINTS if badness <= warn else _interpolate(badness, ((warn, WARN_POINTS), (worst, FAIL_POINTS)))
    elif fail is not None:
        points = FULL_POINTS if badness <= fail else _interpolate(badness, ((fail, FAIL_POINTS), (worst, 0.0)))
    else:
        return FULL_POINTS
    if fail is not None and badness > fail:
        return min(points, FAIL_POINTS - BEYOND)
    if warn is not None and badness > warn:
        return min(points, WARN_POINTS - BEYOND)
    return points


def _interpolate(badness: float, knots: _Knots) -> float:
    """Interpolate linearly; where two knots share a place, the first one counts."""
    for (x0, y0), (x1, y1) in pairwise(knots):
        if badness <= x0:
            return y0
        if badness < x1:
            return y0 + (y1 - y0) * (badness - x0) / (x1 - x0)
    return knots[-1][1]
