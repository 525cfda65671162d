"""What is known about an event beyond its label: the kind of a dropout, the kind of a tone."""

from __future__ import annotations

from dataclasses import dataclass

from speech_qc.wire.vocabulary import LossKind, ToneKind


@dataclass(frozen=True, slots=True)
class DropoutDetail:
    """What replaced the lost samples of a dropout.

    Args:
        kind: `zeros`, `repeated` or `faded`.
        gap_ms: Length of the gap, milliseconds.
    """

    kind: LossKind
    gap_ms: float


@dataclass(frozen=True, slots=True)
class ToneDetail:
    """What kind of tone was found.

    Args:
        kind: The kind of tone; `other` if it is none of the known ones.
        frequencies_hz: Its components, or the fundamental of a hum, Hz.
        digits: Keys of a telephone (DTMF), masked by default; None for any other tone.
    """

    kind: ToneKind
    frequencies_hz: tuple[float, ...]
    digits: str | None = None


EventDetail = DropoutDetail | ToneDetail
