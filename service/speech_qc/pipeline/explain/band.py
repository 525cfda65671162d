"""Find the frequencies of an event: the band in which its spectrum exceeds the floor around it.

The method was chosen by measurement. On mixtures of speech and band-limited noise, it finds the true band far more
often than masking bands and watching the model's score, and needs no further run of the model
(`benchmarks/bench_explain.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio.features import mel_filterbank
from speech_qc.contract import FeatureSpec
from speech_qc.wire.vocabulary import BandReference

Float64 = NDArray[np.float64]

MIN_EXCESS_DB = 6.0
"""A mel band that exceeds the floor by less than this may do so by chance."""
FLOOR_RANGE_DB = 12.0
"""A band belongs to the event if, with the floor subtracted, it is at most this far below the strongest one."""
OWN_RANGE_DB = 10.0
"""The same limit if there is no floor to subtract."""
MAX_GAP_BANDS = 1
"""A notch of up to this many mel bands does not end the band."""
AREA_SHARE = 0.25
"""Mel filters widen with frequency and collect more of a flat spectrum; this share of that gain (in dB) is subtracted.

Subtracting all of it would give power per hertz, in which low hum outweighs everything."""

_NOTHING_DB = -200.0


@dataclass(frozen=True, slots=True)
class Band:
    """The frequencies of an event.

    Attributes:
        low_hz: Lower edge, half a mel band below the centre of the lowest one.
        high_hz: Upper edge, half a mel band above the centre of the highest one.
        against: What the spectrum was compared with.
    """

    low_hz: float
    high_hz: float
    against: BandReference


class BandFinder:
    """Finds bands; immutable, safe to share.

    Args:
        spec: Features in the model's contract.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        self._offset_db = AREA_SHARE * 10.0 * np.log10(mel_filterbank(spec).sum(axis=0, dtype=np.float64))
        low, high = _mel(spec.mel_low_hz), _mel(spec.mel_high_hz)
        self._step_mel = (high - low) / (spec.mel_bands + 1)
        self._first_mel = low + 0.5 * self._step_mel  # lower edge of the first band

    def find(self, inside_db: Float64, floor_db: Float64 | None) -> tuple[Band, slice]:
        """Find the run of mel bands around the strongest one.

        Args:
            inside_db: Spectrum of the event (bands,), dB.
            floor_db: Spectrum of the floor around it (bands,), dB; None if there is none. It is not used if the event
                exceeds it nowhere by `MIN_EXCESS_DB`.

        Returns:
            The band, and its mel bands as a slice.
        """
        against: BandReference = "itself"
        own_db, reach_db = inside_db, OWN_RANGE_DB
        if floor_db is not None and (inside_db - floor_db >= MIN_EXCESS_DB).any():
            against, reach_db = "floor", FLOOR_RANGE_DB
            excess = np.maximum(10.0 ** (inside_db / 10.0) - 10.0 ** (floor_db / 10.0), 1e-20)
            own_db = np.where(inside_db - floor_db >= MIN_EXCESS_DB, 10.0 * np.log10(excess), _NOTHING_DB)
        weighed = own_db - self._offset_db
        peak = int(weighed.argmax())
        belongs = weighed >= weighed[peak] - reach_db
        first = peak - _reach(belongs[peak::-1])
        last = peak + _reach(belongs[peak:])
        return Band(self._edge_hz(first), self._edge_hz(last + 1), against), slice(first, last + 1)

    def _edge_hz(self, edge: int) -> float:
        """Frequency of the edge below mel band `edge`."""
        return float(700.0 * (10.0 ** ((self._first_mel + edge * self._step_mel) / 2595.0) - 1.0))


def _reach(belongs: NDArray[np.bool_]) -> int:
    """Return the last position of a run that begins at 0, with short gaps bridged."""
    last = 0
    for position in np.flatnonzero(belongs).tolist():
        if position - last > MAX_GAP_BANDS + 1:
            break
        last = position
    return last


def _mel(hz: float) -> float:
    return float(2595.0 * np.log10(1.0 + hz / 700.0))
