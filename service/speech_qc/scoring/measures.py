"""The quantities that a profile can limit, and where each is found. To add one, add a line to `MEASURES`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from speech_qc.contract import LABEL_CATALOG
from speech_qc.scoring.summary import SNR_KINDS, Summary

Source = Literal["levels", "summary", "ratios", "snr_by_kind_db", "events_per_min"]


@dataclass(frozen=True, slots=True)
class Measure:
    """A quantity that can have a limit.

    Args:
        subject: Its name in a sentence.
        unit: Shown after the value, may be empty; `%` for shares, which are 0 to 1 in the limits.
        low: Lowest possible value.
        high: Highest possible value.
        source: Where it is found: a field of the levels or of the summary, the share of frames with `label`, the
            signal-to-noise ratio of `label`, or the rate of its events.
        label: The label that it describes; None for measurements of the signal itself.
        needs_speech: Whether it is meaningless in a recording without speech.
    """

    subject: str
    unit: str
    low: float
    high: float
    source: Source
    label: str | None = None
    needs_speech: bool = True


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything measured about a channel.

    Args:
        duration_s: Length of the recording or of the stream so far, seconds.
        summary: The channel's summary.
        levels: Measurements of the signal itself by name (`rms_dbfs`, `peak_dbfs`, `clipped_ratio`, …).
        event_counts: Number of events by label; 0 for a missing label.
    """

    duration_s: float
    summary: Summary
    levels: Mapping[str, float | None]
    event_counts: Mapping[str, int]

    def value(self, name: str) -> float | None:
        """Return the value of a measure; None if this model or recording does not have it."""
        measure = MEASURES[name]
        label = measure.label or ""
        if measure.source == "levels":
            value = self.levels.get(name)
            return abs(value) if name == "dc_offset" and value is not None else value
        if measure.source == "ratios":
            return self.summary.label_ratios.get(label)
        if measure.source == "snr_by_kind_db":
            return self.summary.snr_by_kind_db.get(label)
        if measure.source == "events_per_min":
            if label not in self.summary.label_ratios:  # without the head, a count of 0 would mean nothing
                return None
            return self.event_counts.get(label, 0) / (self.duration_s / 60.0)
        found: float | None = getattr(self.summary, name, None)
        return found


def _measures() -> dict[str, Measure]:
    """List all measures; those of the same kind for several labels are made together."""
    words = {name: name.replace("_", " ") for name in LABEL_CATALOG}
    return {
        "snr_db": Measure("the signal-to-noise ratio", "dB", -100.0, 100.0, "summary", "snr_db"),
        **{
            f"{kind}_snr_db": Measure(f"the ratio of speech to {words[kind]}", "dB", -100.0, 100.0,
                                      "snr_by_kind_db", kind)
            for kind in SNR_KINDS
        },
        "sig": Measure("the speech quality score", "MOS", 1.0, 5.0, "summary", "sig"),
        "bak": Measure("the background quality score", "MOS", 1.0, 5.0, "summary", "bak"),
        "ovrl": Measure("the overall quality score", "MOS", 1.0, 5.0, "summary", "ovrl"),
        "reverberation": Measure("the reverberation score", "", 0.0, 1.0, "summary", "reverberation"),
        "lost_ratio": Measure("the share of lost sound", "%", 0.0, 1.0, "summary", "dropout"),
        "losses_per_min": Measure("the number of losses", "per minute", 0.0, 3000.0, "summary", "dropout"),
        "longest_loss_ms": Measure("the longest loss", "ms", 0.0, 1e9, "summary", "dropout"),
        "dropouts_per_min": Measure("the number of dropouts", "per minute", 0.0, 3000.0, "events_per_min", "dropout"),
        "transient_noises_per_min": Measure("the number of transient noises", "per minute", 0.0, 3000.0,
                                            "events_per_min", "transient_noise"),
        **{
            f"{name}_ratio": Measure(f"the share of time with {words[name]}", "%", 0.0, 1.0, "ratios", name)
            for name, (_, kind) in LABEL_CATALOG.items()
            if kind == "probability"
        },
        "rms_dbfs": Measure("the mean level", "dBFS", -200.0, 10.0, "levels"),
        "noise_floor_dbfs": Measure("the noise floor", "dBFS", -140.0, 40.0, "levels"),
        "loudness_lufs": Measure("the loudness", "LUFS", -70.0, 40.0, "levels"),
        "loudness_range_lu": Measure("the loudness range", "LU", 0.0, 110.0, "levels"),
        "bandwidth_hz": Measure("the bandwidth", "Hz", 0.0, 200_000.0, "levels"),
        "peak_dbfs": Measure("the peak level", "dBFS", -200.0, 10.0, "levels", needs_speech=False),
        "true_peak_dbtp": Measure("the true peak", "dBTP", -200.0, 40.0, "levels", needs_speech=False),
        "high_band_dbfs": Measure("the level of steady sound above 8 kHz", "dBFS", -200.0, 40.0, "levels",
                                  needs_speech=False),
        "cancellation_db": Measure("the level lost by mixing the channels", "dB", -20.0, 120.0, "levels",
                                   needs_speech=False),
        "clipped_ratio": Measure("the share of clipped samples", "%", 0.0, 1.0, "levels", needs_speech=False),
        "digital_silence_ratio": Measure("the share of digital silence", "%", 0.0, 1.0, "levels", needs_speech=False),
        "dc_offset": Measure("the size of the DC offset", "of full scale", 0.0, 1.0, "levels", needs_speech=False),
    }  # fmt: skip


MEASURES: Mapping[str, Measure] = MappingProxyType(_measures())
"""Every measure that can have a limit. `dc_offset` is judged by its absolute value."""
