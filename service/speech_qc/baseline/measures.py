"""What is compared: figures of each recording, which side of the range is worse, and what is too small to matter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Side = Literal["below", "above", "both"]


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure of a recording, or a share of recordings.

    Args:
        name: As in the results: a field of `summary` or `levels`; or `fail_ratio`.
        worse: Where a value is worse than normal.
        least: Smallest deviation from the centre of the range that is reported, in the figure's unit.
    """

    name: str
    worse: Side
    least: float


FAIL_RATIO = "fail_ratio"
"""Share of recordings with the verdict `fail`."""

MEASURES = (
    Measure("quality", "below", 5.0),
    Measure("snr_db", "below", 2.0),
    Measure("noise_ratio", "above", 0.05),
    Measure("interference_ratio", "above", 0.05),
    Measure("lost_ratio", "above", 0.005),
    Measure("bandwidth_hz", "below", 300.0),
    Measure("loudness_lufs", "both", 2.0),
    Measure(FAIL_RATIO, "above", 0.05),
)

BY_NAME: Mapping[str, Measure] = {measure.name: measure for measure in MEASURES}
