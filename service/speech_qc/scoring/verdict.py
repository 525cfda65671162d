"""Judges a channel's measurements against a profile's limits: pass, warn, fail or unknown.

These rules always apply:

- `fail` and `warn` have at least one reason that names the value and the limit; `pass` has none.
- A recording shorter than 0.5 s is `unknown`, whatever its measurements: they describe a word at most.
- Without speech there is no speech quality to judge. The verdict is then `unknown` with a reason that says so, and
  limits that describe speech (its SNR, background noise, level and bandwidth) are not checked. Limits on faults of the
  signal chain itself (clipped samples, digital silence, DC offset, peak) still count, because they do not depend on a
  talker: a recording that contains only zeros, or only overload, *fails*. If such a limit only warns, the verdict stays
  `unknown` and lists that reason as well, because `warn` would imply that everything else is good.
- A rate of events fails a recording only from the second event on: a single event in a clip of a few seconds is a high
  rate and may be a false alarm. It only warns.
- A measurement that is null gives no reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from speech_qc.scoring.layout import MIN_JUDGED_S, MIN_SPEECH_FRAMES
from speech_qc.scoring.profiles import MEASURES, Limit, Measure, Profile
from speech_qc.scoring.summary import MOS_LABELS, Summary
from speech_qc.wire.vocabulary import Status

PER_MINUTE = "_per_min"
LOSS_MEASURES = ("lost_ratio", "losses_per_min", "longest_loss_ms")
TOO_SHORT_CODE = "too_short"
NO_SPEECH_CODE = "no_speech"
CODES: frozenset[str] = frozenset(
    {TOO_SHORT_CODE, NO_SPEECH_CODE} | {f"{name}_{side}" for name in MEASURES for side in ("below", "above")}
)
"""Every code that a reason can have; part of the API."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason for a verdict.

    Args:
        code: Stable name, one of `CODES`.
        message: A sentence with the value and the limit.
        label: The label that it describes; None for measurements of the signal itself.
        value: The measured value; None if there is none.
        limit: The bound that the value violates; None if no bound is involved.
    """

    code: str
    message: str
    label: str | None
    value: float | None
    limit: float | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on one channel; reasons that fail it precede those that warn."""

    status: Status
    reasons: tuple[Reason, ...]


def judge(
    profile: Profile,
    *,
    duration_s: float,
    summary: Summary,
    levels: Mapping[str, float | None],
    event_counts: Mapping[str, int],
) -> Verdict:
    """Judge a channel's measurements against a profile.

    Args:
        profile: The limits.
        duration_s: Length of the recording or of the stream so far, seconds.
        summary: The channel's summary.
        levels: Measurements of the signal itself by name (`rms_dbfs`, `peak_dbfs`, `clipped_ratio`, …); other names are
            ignored.
        event_counts: Number of events by label; 0 for a missing label.
    """
    if duration_s < MIN_JUDGED_S:
        text, limit_text = _texts(duration_s, MIN_JUDGED_S, 1.0)
        message = f"The recording is {text} s long; a recording shorter than {limit_text} s is not judged."
        return Verdict("unknown", (Reason(TOO_SHORT_CODE, message, None, duration_s, MIN_JUDGED_S),))

    has_speech = summary.speech_frames >= MIN_SPEECH_FRAMES
    values = _values(duration_s, summary, levels, event_counts)
    failed: list[Reason] = []
    warned: list[Reason] = []
    for name, limit in profile.limits.items():
        measure, value = MEASURES[name], values.get(name)
        if value is None or (measure.needs_speech and not has_speech):
            continue
        single = name.endswith(PER_MINUTE) and event_counts.get(str(measure.label)) == 1
        _hold(name, measure, value, limit, failed, warned, single=single)

    reasons = failed + warned
    if not has_speech:
        reasons = [*failed, _no_speech(summary), *warned]
        return Verdict("fail" if failed else "unknown", tuple(reasons))
    return Verdict("fail" if failed else "warn" if warned else "pass", tuple(reasons))


def _values(
    duration_s: float, summary: Summary, levels: Mapping[str, float | None], event_counts: Mapping[str, int]
) -> dict[str, float | None]:
    """Collect all measures by name; measures that this model or recording does not have are absent or None."""
    values: dict[str, float | None] = {name: levels.get(name) for name, m in MEASURES.items() if m.label is None}
    if values["dc_offset"] is not None:
        values["dc_offset"] = abs(values["dc_offset"])
    values |= {f"{label}_ratio": ratio for label, ratio in summary.label_ratios.items()}
    values |= {name: getattr(summary, name) for name in ("snr_db", *LOSS_MEASURES, *MOS_LABELS)}
    minutes = duration_s / 60.0
    for label in ("dropout", "transient_noise"):
        if label in summary.label_ratios:  # without the head, a count of 0 would mean nothing
            values[f"{label}s{PER_MINUTE}"] = event_counts.get(label, 0) / minutes
    return values


def _hold(
    name: str,
    measure: Measure,
    value: float,
    limit: Limit,
    failed: list[Reason],
    warned: list[Reason],
    *,
    single: bool,
) -> None:
    """Add the most severe reason for the value, if any; a rate of a single event can only warn."""
    for bounds, into, word in (
        ((limit.fail_below, limit.fail_above), failed, "fail"),
        ((limit.warn_below, limit.warn_above), warned, "warn"),
    ):
        below, above = bounds
        if below is not None and value < below:
            into.append(_reason(name, measure, value, below, "below", word))
            return
        if above is not None and value > above:
            (warned if single else into).append(_reason(name, measure, value, above, "above", word))
            return


def _reason(name: str, measure: Measure, value: float, limit: float, side: str, word: str) -> Reason:
    text, limit_text = _texts(value, limit, 100.0 if measure.unit == "%" else 1.0)
    subject = measure.subject[0].upper() + measure.subject[1:]
    message = f"{subject} is {text} {measure.unit}, {side} the {word} limit of {limit_text} {measure.unit}."
    return Reason(f"{name}_{side}", message, measure.label, value, limit)


def _no_speech(summary: Summary) -> Reason:
    if not summary.speech_frames:
        message = "No speech was found, so its quality cannot be judged."
    else:
        message = (
            f"Speech was found in {summary.speech_frames} of {summary.frames} frames, fewer than the "
            f"{MIN_SPEECH_FRAMES} that are needed to judge its quality."
        )
    return Reason(NO_SPEECH_CODE, message, "speech", summary.speech_ratio, None)


def _texts(value: float, limit: float, scale: float) -> tuple[str, str]:
    """Format a value and its limit with one decimal, or with as many as needed to distinguish them."""
    for decimals in range(1, 9):
        text, limit_text = (_trim(f"{number * scale:.{decimals}f}") for number in (value, limit))
        if text != limit_text and float(limit_text) == round(limit * scale, 8):
            break
    return text, limit_text


def _trim(text: str) -> str:
    text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
