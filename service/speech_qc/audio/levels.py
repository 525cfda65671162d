"""Level measures of one channel at its native rate; they need no model and no resampling.

They are taken before resampling, because clipping, digital zeros and bandwidth do not survive it. Samples are measured
in pieces of a fixed size at absolute positions, so the results do not depend on how the samples arrived. Memory is
constant.
"""

from __future__ import annotations

import copy
import math
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio import check_rate_hz
from speech_qc.audio.loudness import LoudnessMeter
from speech_qc.audio.rail import Rail
from speech_qc.audio.spectrum import MAX_SAMPLE, SpectrumMeter
from speech_qc.audio.true_peak import TruePeakMeter

PIECE_SAMPLES = 4096
"""Samples per piece; large enough to hide NumPy's cost per call, small enough to buffer for each stream."""

SILENCE_RUN_S = 0.01
"""Seconds; exact zeros of at least this length are a mute, a gap or a gate, shorter runs are quiet 16-bit audio."""


@dataclass(frozen=True)
class Levels:
    """Measurements of one channel; None where there was nothing to measure.

    Args:
        rms_dbfs: Root mean square, DC offset included; 0 dBFS is a full-scale square wave, a full-scale sine has −3.
        peak_dbfs: Largest absolute sample; above 0 is possible in float recordings.
        clipped_ratio: Share of samples clipped at the recording's own extremes, or beyond ±1; see `Rail`.
        dc_offset: Mean, in units of full scale.
        digital_silence_ratio: Share of samples in runs of exact zeros of at least `SILENCE_RUN_S`.
        bandwidth_hz: Highest frequency of the speech, or of the sound if it has no pauses; see `audio.spectrum`.
        loudness_lufs: Integrated loudness, EBU R 128; None below 0.4 s or -70 LUFS.
        loudness_max_lufs: Highest short-term loudness; None below 3 s.
        loudness_range_lu: Loudness range; None below 3 s or -70 LUFS.
        true_peak_dbtp: Highest value between the samples, dB relative to full scale.
        noise_floor_dbfs: Level of the quietest tenth of the frames, which the session adds; see `audio.noise_floor`.
        high_band_dbfs: Level of steady sound above 8 kHz; None if the rate is 16 kHz or lower.
        high_tone_hz: Frequency of a tone above 8 kHz; None if there is none.
        cancellation_db: Level that the mean of several channels lacks; see `audio.stereo`; None if it is no mean.
    """

    rms_dbfs: float | None
    peak_dbfs: float | None
    clipped_ratio: float | None
    dc_offset: float | None
    digital_silence_ratio: float | None
    bandwidth_hz: float | None
    loudness_lufs: float | None = None
    loudness_max_lufs: float | None = None
    loudness_range_lu: float | None = None
    true_peak_dbtp: float | None = None
    noise_floor_dbfs: float | None = None
    high_band_dbfs: float | None = None
    high_tone_hz: float | None = None
    cancellation_db: float | None = None


REASONS = {
    "rms_dbfs": "the channel is digital silence",
    "peak_dbfs": "the channel is digital silence",
    "bandwidth_hz": "too little sound above -70 dBFS",
    "loudness_lufs": "shorter than 0.4 s, or quieter than -70 LUFS",
    "loudness_max_lufs": "shorter than 3 s, or digital silence",
    "loudness_range_lu": "shorter than 3 s, or quieter than -70 LUFS",
    "true_peak_dbtp": "the channel is digital silence",
    "noise_floor_dbfs": "less than 0.5 s of sound, or hidden by a DC offset",
    "high_band_dbfs": "no sound above 8 kHz, or a sample rate of 16 kHz or less",
    "high_tone_hz": "no tone above 8 kHz",
    "cancellation_db": "the channels were not mixed, or are digital silence",
}
"""Why a measurement is None, if there was audio."""

NO_AUDIO = "no audio was received"

OnPiece = Callable[[NDArray[np.float32], float], None]
"""Samples of a piece, float32 [n], and their mean square."""


class LevelMeter:
    """Measures one channel as a stream; owned by one session, not thread-safe.

    Args:
        rate_hz: Sample rate of the input.
        on_piece: Called with every full piece: its samples float32 [n], valid only during the call, and their mean
            square.

    Raises:
        InvalidAudio: The rate is outside what `check_rate_hz` accepts.
    """

    def __init__(self, rate_hz: int, on_piece: OnPiece | None = None) -> None:
        check_rate_hz(rate_hz)
        self._on_piece = on_piece
        self.samples = 0
        self._rate_hz = rate_hz
        self._waiting = np.empty(PIECE_SAMPLES, np.float32)
        self._filled = 0
        self._sum = 0.0
        self._squares = 0.0
        self._peak = 0.0
        self._over = 0  # samples beyond ±1
        self._upper, self._lower = Rail(1.0), Rail(-1.0)
        self._silence_run = math.ceil(rate_hz * SILENCE_RUN_S)
        self._silent = 0  # samples in finished runs that were long enough
        self._zeros = 0  # length of the run that reaches the end of the last piece
        self._loudness = LoudnessMeter(rate_hz, PIECE_SAMPLES)
        self._true_peak = TruePeakMeter(rate_hz)
        self._spectrum = SpectrumMeter(rate_hz, PIECE_SAMPLES)

    def push(self, samples: NDArray[np.float32]) -> None:
        """Measure the next samples, any number of them.

        Args:
            samples: float32 [n], finite.
        """
        self.samples += len(samples)
        while len(samples):
            if self._filled == 0 and len(samples) >= PIECE_SAMPLES:
                self._full(np.ascontiguousarray(samples[:PIECE_SAMPLES]))
                samples = samples[PIECE_SAMPLES:]
                continue
            count = min(PIECE_SAMPLES - self._filled, len(samples))
            self._waiting[self._filled : self._filled + count] = samples[:count]
            self._filled += count
            samples = samples[count:]
            if self._filled == PIECE_SAMPLES:
                self._full(self._waiting)
                self._filled = 0

    def _full(self, piece: NDArray[np.float32]) -> None:
        squares = self._squares
        self._measure(piece)
        if self._on_piece is not None:
            self._on_piece(piece, (self._squares - squares) / len(piece))

    def result(self) -> Levels:
        """Return the measurements of everything pushed so far; the stream may continue."""
        if self.samples == 0:
            return Levels(None, None, None, None, None, None)
        end = copy.copy(self)
        for name in _PARTS:
            setattr(end, name, _copied(getattr(self, name)))
        if end._filled:
            end._measure(end._waiting[: end._filled])
        silent = end._silent + (end._zeros if end._zeros >= end._silence_run else 0)
        clipped = end._over + end._upper.clipped_samples() + end._lower.clipped_samples()
        loudness, spectral, true_peak = end._loudness.result(), end._spectrum.result(), end._true_peak.finished()
        return Levels(
            rms_dbfs=10 * math.log10(end._squares / end.samples) if end._squares else None,
            peak_dbfs=20 * math.log10(end._peak) if end._peak else None,
            clipped_ratio=clipped / end.samples,
            dc_offset=end._sum / end.samples,
            digital_silence_ratio=silent / end.samples,
            bandwidth_hz=spectral.bandwidth_hz,
            loudness_lufs=loudness.integrated_lufs,
            loudness_max_lufs=loudness.short_term_max_lufs,
            loudness_range_lu=loudness.range_lu,
            true_peak_dbtp=20 * math.log10(true_peak) if true_peak else None,
            high_band_dbfs=spectral.high_band_dbfs,
            high_tone_hz=spectral.high_tone_hz,
        )

    def _measure(self, piece: NDArray[np.float32]) -> None:
        """Add one piece; all but the last have `PIECE_SAMPLES`."""
        wide = piece.astype(np.float64)
        squares = float(wide.dot(wide))
        if squares == 0.0:  # digital silence is common and needs no further work
            self._zeros += len(piece)
            self._upper.push(piece, 0.0)
            self._lower.push(piece, 0.0)
            self._loudness.push_silence(len(piece))
            self._true_peak.push(piece, 0.0)
            return
        self._sum += float(wide.dot(_ONES[: len(wide)]))  # half the time of sum()
        self._squares += squares
        highest, lowest = float(piece[piece.argmax()]), float(piece[piece.argmin()])  # half the time of max(), min()
        self._peak = max(self._peak, highest, -lowest)
        if highest > 1.0 or lowest < -1.0:
            self._over += int(np.count_nonzero(np.abs(piece) > 1.0))
        self._upper.push(piece, highest)
        self._lower.push(piece, -lowest)
        self._count_silence(piece)
        largest = max(highest, -lowest)
        self._true_peak.push(piece, largest)
        self._spectrum.push(piece, largest)
        missing = PIECE_SAMPLES - len(piece)
        if largest > MAX_SAMPLE:  # squares of float32 overflow; no such recording is accepted
            self._loudness.push_silence(len(piece))
            return
        self._loudness.push(np.pad(piece, (0, missing)) if missing else piece, len(piece))

    def _count_silence(self, piece: NDArray[np.float32]) -> None:
        """Count runs of zeros in a piece that is not all zero."""
        if not self._may_hold_silence(piece):
            if piece[0] == 0.0:
                self._zeros += int(np.flatnonzero(piece[: self._silence_run])[0])
            self._end_silence()
            if piece[-1] == 0.0:
                tail = piece[-self._silence_run :]
                self._zeros = len(tail) - 1 - int(np.flatnonzero(tail)[-1])
            return
        sounding = np.flatnonzero(piece)
        self._zeros += int(sounding[0])
        self._end_silence()
        gaps = np.diff(sounding) - 1
        self._silent += int(gaps[gaps >= self._silence_run].sum())
        self._zeros = len(piece) - 1 - int(sounding[-1])

    def _may_hold_silence(self, piece: NDArray[np.float32]) -> bool:
        """Whether the piece may contain a long enough run of zeros: it covers 2 and 16 points of the two grids."""
        zeros = piece[:: self._silence_run // 2] == 0.0
        if np.count_nonzero(zeros) < 2 or not np.count_nonzero(zeros[1:] & zeros[:-1]):
            return False
        zeros = piece[:: self._silence_run // 16] == 0.0
        for shift in (1, 2, 4, 8):
            zeros = zeros[shift:] & zeros[:-shift]  # 2 * shift in a row
        return bool(np.count_nonzero(zeros))

    def _end_silence(self) -> None:
        if self._zeros >= self._silence_run:
            self._silent += self._zeros
        self._zeros = 0


_PARTS = ("_upper", "_lower", "_loudness", "_true_peak", "_spectrum")
_ONES = np.ones(PIECE_SAMPLES)
_Part = TypeVar("_Part")


def _copied(part: _Part) -> _Part:
    """Copy a part of the meter, so that the copy can end while the stream continues."""
    other = copy.copy(part)
    for name, value in vars(part).items():
        if isinstance(value, (np.ndarray, array, deque, list)):
            setattr(other, name, copy.copy(value))
    return other
