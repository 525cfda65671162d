"""What a run asks of every recording.

Apart from what inspects, so that the process that distributes the work need not load the model's libraries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of every recording.

    Args:
        profile: Name of the verdict profile; None for the default one.
        frames: Keep the scores of every 20 ms.
        settings: Settings that replace those of the `SPEECHQC_*` environment.
    """

    profile: str | None = None
    frames: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
