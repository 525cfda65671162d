"""What a leg tells its call, wherever the call is: in this process or in another one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from speech_qc.calls.records import AnyRecord


class LegPort(Protocol):
    """A leg in its call; every method returns at once and never raises."""

    def begin(self, heard_s: float) -> None:
        """Say when the leg's first sample was taken, on the monotonic clock that all processes of a machine share."""

    def record(self, record: AnyRecord) -> None:
        """Take the next record."""

    def event(self, phase: str, fields: Mapping[str, Any]) -> None:
        """Take an event of the leg that has begun or ended, as the fields of `EventAnswer`."""

    def digits(self, digits: str) -> None:
        """Take keys that were pressed, masked already."""

    def end(self, document: Mapping[str, Any] | None, regular: bool = False) -> None:
        """End the leg with its channel document, None if that is lost; `regular` as of `LegFeed.ended`."""
