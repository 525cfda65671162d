"""Level measures of one channel at its native rate; they need no model and no resampling.

They are taken before resampling, because clipping, digital zeros and bandwidth do not survive it. Samples are measured
in pieces of a fixed size at absolute positions, so the results do not depend on how the samples arrived. Pieces of many
channels are measured in one call, independently. Memory is constant.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio import check_rate_hz
from speech_qc.audio.loudness import LoudnessMeter, hop_samples, k_weighting
from speech_qc.audio.rail import Rail
from speech_qc.audio.spectrum import MAX_SAMPLE, Spectrum, SpectrumMeter
from speech_qc.audio.true_peak import TruePeak, TruePeakMeter

SILENCE_RUN_S = 0.01
"""Seconds; exact zeros of at least this length are a mute, a gap or a gate, shorter runs are quiet 16-bit audio."""

PARTS = 16
"""Parts of a piece that are summed in single precision; each is short enough for it."""


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

WEIGHED = 4
"""Consecutive pieces of a channel that are weighted in one product: the intermediate arrays stay in the cache."""

Float32 = NDArray[np.float32]


class ChannelLevels:
    """What a `LevelMeter` has measured of one channel so far.

    Args:
        rate_hz: Sample rate.
    """

    def __init__(self, rate_hz: int) -> None:
        self.samples = 0
        self.sum = 0.0
        self.squares = 0.0
        self.peak = 0.0
        self.over = 0  # samples beyond ±1
        self.upper, self.lower = Rail(1.0), Rail(-1.0)
        self.silent = 0  # samples in finished runs of zeros that were long enough
        self.zeros = 0  # length of the run that reaches the end of the last piece
        self.loudness = LoudnessMeter(rate_hz)
        self.true_peak = TruePeak()
        self.spectrum = Spectrum(rate_hz)

    def copy(self) -> ChannelLevels:
        """Return a copy, which can end while the stream continues."""
        other = copy.copy(self)
        for name in ("upper", "lower", "loudness", "true_peak", "spectrum"):
            setattr(other, name, getattr(self, name).copy())
        return other


class LevelMeter:
    """Measures the pieces of several channels at one rate; keeps no state of theirs.

    Args:
        rate_hz: Sample rate of the channels.
        piece: Samples of a piece, a multiple of `PARTS`.

    Raises:
        InvalidAudio: The rate is outside what `check_rate_hz` accepts.
    """

    def __init__(self, rate_hz: int, piece: int) -> None:
        check_rate_hz(rate_hz)
        self._rate_hz = rate_hz
        self._ones = np.ones(piece // PARTS, np.float32)
        self._silence_run = math.ceil(rate_hz * SILENCE_RUN_S)
        self._weighting = k_weighting(rate_hz, piece)
        hops, rest = divmod(piece, hop_samples(rate_hz))
        self._hops = 0 if rest else hops  # of the loudness, if pieces are a whole number of them
        self._true_peak = TruePeakMeter(rate_hz)
        self._spectrum = SpectrumMeter(rate_hz)

    def add(self, channels: Sequence[ChannelLevels], pieces: Float32, count: int) -> list[float]:
        """Measure one piece of each channel.

        Args:
            channels: R channels, all different, or R times the same one with consecutive pieces.
            pieces: float32 [R, piece], finite; zeros from `count` on.
            count: Samples of each piece; fewer than a piece only at the end of a recording.

        Returns:
            The mean square of each piece.
        """
        parts = pieces.reshape(len(pieces), PARTS, -1)
        with np.errstate(over="ignore"):
            squares = np.vecdot(parts, parts).sum(axis=1, dtype=np.float64)
        sums = np.vecdot(parts, self._ones).sum(axis=1, dtype=np.float64)
        own = pieces[:, :count]
        high, low = own.max(axis=1), own.min(axis=1)
        largest = np.maximum(high, -low)
        for row in np.flatnonzero(largest > MAX_SAMPLE):  # where squares of float32 overflow
            squares[row] = np.square(own[row], dtype=np.float64).sum()
        zeros = own[:, :: max(1, self._silence_run // 2)] == 0.0
        gaps = (zeros[:, 1:] & zeros[:, :-1]).any(axis=1)  # two points are in every run that is long enough
        facts = zip(channels, own, *(v.tolist() for v in (squares, sums, high, low, gaps)), strict=True)
        for channel, samples, square, total, highest, lowest, gap in facts:
            channel.samples += count
            channel.squares += square
            channel.sum += total
            channel.peak = max(channel.peak, highest, -lowest)
            if highest > 1.0 or lowest < -1.0:
                channel.over += int(np.count_nonzero(np.abs(samples) > 1.0))
            channel.upper.push(samples, highest)
            channel.lower.push(samples, -lowest)
            self._count_silence(channel, samples, gap=gap)
        self._true_peak.add([channel.true_peak for channel in channels], own, largest.tolist())
        self._weigh(channels, pieces, count, (largest > 0.0) & (largest <= MAX_SAMPLE))
        mean_squares: list[float] = (squares / count).tolist()
        return mean_squares

    def result(self, channel: ChannelLevels) -> Levels:
        """Return the measurements of everything so far; the stream may continue."""
        if channel.samples == 0:
            return Levels(None, None, None, None, None, None)
        samples = channel.samples
        silent = channel.silent + (channel.zeros if channel.zeros >= self._silence_run else 0)
        clipped = channel.over + channel.upper.copy().clipped_samples() + channel.lower.copy().clipped_samples()
        loudness, spectral = channel.loudness.result(), channel.spectrum.result()
        true_peak = self._true_peak.finished(channel.true_peak)
        return Levels(
            rms_dbfs=10 * math.log10(channel.squares / samples) if channel.squares else None,
            peak_dbfs=20 * math.log10(channel.peak) if channel.peak else None,
            clipped_ratio=clipped / samples,
            dc_offset=channel.sum / samples,
            digital_silence_ratio=silent / samples,
            bandwidth_hz=spectral.bandwidth_hz,
            loudness_lufs=loudness.integrated_lufs,
            loudness_max_lufs=loudness.short_term_max_lufs,
            loudness_range_lu=loudness.range_lu,
            true_peak_dbtp=20 * math.log10(true_peak) if true_peak else None,
            high_band_dbfs=spectral.high_band_dbfs,
            high_tone_hz=spectral.high_tone_hz,
        )

    def _weigh(self, channels: Sequence[ChannelLevels], pieces: Float32, count: int, sounds: NDArray[np.bool_]) -> None:
        """Add the pieces with sound to loudness and spectrum, and silence to the loudness of the others."""
        run = len(channels) > 1 and channels[0] is channels[1]
        if run and not sounds.all():  # in order, one by one
            for row in range(len(channels)):
                own = slice(row, row + 1)
                self._weigh(channels[own], pieces[own], count, sounds[own])
            return
        for row in np.flatnonzero(~sounds).tolist():  # silence, or no audio: no recording with such samples is accepted
            channels[row].loudness.push_silence(count)
        rows = np.flatnonzero(sounds)
        if not len(rows):
            return
        chosen = [channels[row] for row in rows.tolist()]
        loud = pieces if len(rows) == len(pieces) else pieces[rows]
        if run:
            loudness = chosen[0].loudness
            for start in range(0, len(loud), WEIGHED):
                part = loud[start : start + WEIGHED]
                weighting = k_weighting(self._rate_hz, part.size)
                whole, (loudness.state,) = weighting.run(part.reshape(1, -1), loudness.state[None])
                self._count_loudness([loudness] * len(part), whole.reshape(part.shape), count)
        else:
            meters = [channel.loudness for channel in chosen]
            weighted, states = self._weighting.run(loud, np.stack([loudness.state for loudness in meters]))
            for loudness, state in zip(meters, states, strict=True):
                loudness.state = state
            self._count_loudness(meters, weighted, count)
        self._spectrum.add([channel.spectrum for channel in chosen], loud[:, :count])

    def _count_loudness(self, meters: Sequence[LoudnessMeter], weighted: Float32, count: int) -> None:
        """Count weighted pieces, float32 [R, piece], each for its meter, in order."""
        if self._hops and count == weighted.shape[1]:
            parts = weighted.reshape(len(meters), self._hops, -1)
            for loudness, energies in zip(meters, np.vecdot(parts, parts).tolist(), strict=True):
                loudness.push_hops(energies)
        else:
            for loudness, samples in zip(meters, weighted, strict=True):
                loudness.push(samples[:count])

    def _count_silence(self, channel: ChannelLevels, piece: Float32, *, gap: bool) -> None:
        """Count runs of zeros; `gap` says whether the piece may contain a long one besides those at its ends."""
        starts, ends = piece[0] == 0.0, piece[-1] == 0.0
        if not (gap or starts or ends):
            self._end_silence(channel)
            return
        sounding = np.flatnonzero(piece)
        if not len(sounding):
            channel.zeros += len(piece)
            return
        channel.zeros += int(sounding[0])
        self._end_silence(channel)
        if gap:
            lengths = np.diff(sounding) - 1
            channel.silent += int(lengths[lengths >= self._silence_run].sum())
        channel.zeros = len(piece) - 1 - int(sounding[-1])

    def _end_silence(self, channel: ChannelLevels) -> None:
        if channel.zeros >= self._silence_run:
            channel.silent += channel.zeros
        channel.zeros = 0
