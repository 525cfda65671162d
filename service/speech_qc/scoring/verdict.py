"""Judges a channel's measurements against a profile: a quality from 0 to 100, and pass, warn, fail or unknown.

Each limit of the profile turns a measure into points, and what is missing to 100 is a penalty. The quality is 100 minus
the norm of order `ORDER` of the penalties, so the worst impairment dominates and borderline ones add up. From 70
the verdict is `pass`, from 40 `warn`, below that `fail`. So a value beyond its warn limit at least warns, and a value
beyond its fail limit fails.

These rules always apply:

- `fail` and `warn` have at least one reason that names the value and the limit; `pass` has none. Reasons are ordered by
  penalty, highest first.
- If several measures make the verdict worse than any of them alone would, the first reason says so, and measures near
  their limit are listed as well.
- A recording shorter than 0.5 s is `unknown`, whatever its measurements: they describe a word at most.
- Without speech there is no speech quality to judge. The verdict is then `unknown` with a reason that says so, and
  limits that describe speech (its SNR, background noise, level and bandwidth) are not checked. Limits on faults of the
  signal chain itself (clipped samples, digital silence, DC offset, peak) still count, because they do not depend on a
  talker: a recording that contains only zeros, or only overload, *fails*. If such a limit only warns, the verdict stays
  `unknown` and lists that reason as well, because `warn` would imply that everything else is good.
- A recording that fails without speech has the quality 0, since nothing of it is of use.
- Without speech, a channel below `SILENT_DBFS` is a silent line and fails, whether it contains zeros or faint hiss.
- A rate of events, or a share of lost sound, fails a recording only from the second event on: a single event in a clip
  of a few seconds is a high rate and may be a false alarm. It only warns.
- A measurement that is null gives no reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from speech_qc.scoring.layout import MIN_JUDGED_S, MIN_SPEECH_FRAMES
from speech_qc.scoring.limits import FAIL_POINTS, FULL_POINTS, WARN_POINTS, Limit
from speech_qc.scoring.measures import MEASURES, Figures, Measure
from speech_qc.scoring.profiles import Profile
from speech_qc.scoring.summary import Summary
from speech_qc.wire.vocabulary import Status

ORDER = 2.0
"""Order of the norm: two equal penalties count 1.41 times as much as one, three 1.73 times."""

SILENT_DBFS = -70.0
"""dBFS without the DC offset; an idle A-law line is at −72 dBFS, comfort noise and quiet rooms are above."""

SINGLE_EVENT_PENALTY = 45.0
"""Highest penalty of a rate or share that stems from a single event; the middle of `warn`."""

TELLING_SHARE = 0.5
"""Share of the highest penalty from which a measure within its limits is listed, if penalties add up."""

TOO_SHORT_CODE = "too_short"
NO_SPEECH_CODE = "no_speech"
SILENT_CODE = "silent"
TOGETHER_CODE = "quality_below"
CODES: frozenset[str] = frozenset(
    {TOO_SHORT_CODE, NO_SPEECH_CODE, SILENT_CODE, TOGETHER_CODE}
    | {f"{name}_{side}" for name in MEASURES for side in ("below", "above")}
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
        limit: The bound that the value violates or is near; None if no bound is involved.
    """

    code: str
    message: str
    label: str | None
    value: float | None
    limit: float | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on one channel, its reasons from most to least severe, and its quality.

    Args:
        quality: 0 to 100 in steps of 0.1; None if the status is `unknown`.
    """

    status: Status
    reasons: tuple[Reason, ...]
    quality: float | None = None


@dataclass(frozen=True, slots=True)
class _Judged:
    """One measure with its value, limit and penalty (0 to 100)."""

    name: str
    measure: Measure
    value: float
    limit: Limit
    penalty: float


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
    judged = _judge_measures(profile, Figures(duration_s, summary, levels, event_counts), has_speech)
    if not has_speech:
        return _without_speech(summary, levels, judged)
    quality = _quality([item.penalty for item in judged])
    status: Status = "pass" if quality >= WARN_POINTS else "warn" if quality >= FAIL_POINTS else "fail"
    return Verdict(status, _reasons(judged, quality, status), quality)


def _judge_measures(profile: Profile, figures: Figures, has_speech: bool) -> list[_Judged]:
    """Return the measures that have a value and can be judged, most severe first."""
    judged: list[_Judged] = []
    for name, limit in profile.limits.items():
        measure, value = MEASURES[name], figures.value(name)
        if value is None or (measure.needs_speech and not has_speech):
            continue
        penalty = FULL_POINTS - limit.points(value, measure.low, measure.high)
        counted = measure.source == "events_per_min" or (measure.label == "dropout" and measure.unit != "ms")
        if counted and figures.event_counts.get(str(measure.label)) == 1:
            penalty = min(penalty, SINGLE_EVENT_PENALTY)
        judged.append(_Judged(name, measure, value, limit, penalty))
    return sorted(judged, key=lambda item: -item.penalty)


def _quality(penalties: Sequence[float]) -> float:
    """Combine penalties into a quality, rounded down: a value beyond its limit stays below the limit's points."""
    highest = max(penalties, default=0.0)
    if highest == 0.0:
        return FULL_POINTS
    total: float = highest * sum((penalty / highest) ** ORDER for penalty in penalties) ** (1.0 / ORDER)
    return math.floor(max(0.0, FULL_POINTS - round(total, 2)) * 10.0 + 1e-6) / 10.0


def _reasons(judged: Sequence[_Judged], quality: float, status: Status) -> tuple[Reason, ...]:
    """Return the reasons of a verdict; without a reason beyond its limit, those that contribute most."""
    if status == "pass":
        return ()
    beyond = [item for item in judged if item.penalty > FULL_POINTS - WARN_POINTS]
    bound = FAIL_POINTS if status == "fail" else WARN_POINTS
    if beyond and beyond[0].penalty > FULL_POINTS - bound:
        return tuple(_reason(item) for item in beyond)
    least = TELLING_SHARE * judged[0].penalty
    verb = "fail" if status == "fail" else "warn"
    message = (
        f"Several measures together lower the quality to {_trim(f'{quality:.1f}')}, "
        f"below the {verb} limit of {bound:.0f}."
    )
    together = Reason(TOGETHER_CODE, message, None, quality, bound)
    return (together, *(_reason(item) for item in judged if item.penalty >= least))


def _reason(item: _Judged) -> Reason:
    """State the most severe limit that a value violates; if it violates none, the nearest one and the points it costs.

    The penalty of a single event only warns, so its reason states the warn limit, if there is one.
    """
    limit, value = item.limit, item.value
    warns = item.penalty <= SINGLE_EVENT_PENALTY
    for below, above, word in (
        (
            None if warns and limit.warn_below is not None else limit.fail_below,
            None if warns and limit.warn_above is not None else limit.fail_above,
            "fail",
        ),
        (limit.warn_below, limit.warn_above, "warn"),
    ):
        if below is not None and value < below:
            return _stated(item, below, "below", word)
        if above is not None and value > above:
            return _stated(item, above, "above", word)
    sides = {"below": limit.warn_below, "above": limit.warn_above}
    side, bound = min(
        ((side, bound) for side, bound in sides.items() if bound is not None), key=lambda pair: abs(value - pair[1])
    )
    return _stated(item, bound, side, "warn", within=True)


def _stated(item: _Judged, bound: float, side: str, word: str, *, within: bool = False) -> Reason:
    measure = item.measure
    text, limit_text = _texts(item.value, bound, 100.0 if measure.unit == "%" else 1.0)
    subject = measure.subject[0].upper() + measure.subject[1:]
    unit = f" {measure.unit}" if measure.unit else ""
    message = f"{subject} is {text}{unit}, {'within' if within else side} the {word} limit of {limit_text}{unit}"
    if within:  # a measure can cost points far from its limit, as the bandwidth of a telephone does
        message += f", but costs {_trim(f'{item.penalty:.1f}')} of 100 points"
    return Reason(f"{item.name}_{side}", f"{message}.", measure.label, item.value, bound)


def _without_speech(summary: Summary, levels: Mapping[str, float | None], judged: Sequence[_Judged]) -> Verdict:
    """Judge a channel without speech: only a fault of the signal chain, or silence, can fail it."""
    failed = [_reason(item) for item in judged if item.penalty > FULL_POINTS - FAIL_POINTS]
    warned = [_reason(item) for item in judged if FULL_POINTS - WARN_POINTS < item.penalty <= FULL_POINTS - FAIL_POINTS]
    silent = _silent(levels)
    if silent is not None and not failed:
        failed = [silent]
    reasons = (*failed, _no_speech(summary), *warned)
    return Verdict("fail", reasons, 0.0) if failed else Verdict("unknown", reasons)


def _silent(levels: Mapping[str, float | None]) -> Reason | None:
    """Return the reason that the channel is silent; None if it is not."""
    if "rms_dbfs" not in levels:
        return None
    rms_dbfs, offset = levels["rms_dbfs"], levels.get("dc_offset") or 0.0
    power = 0.0 if rms_dbfs is None else max(0.0, 10.0 ** (rms_dbfs / 10.0) - offset * offset)
    if power < 1e-20:
        return Reason(SILENT_CODE, "The channel is silent: its samples do not vary.", None, None, None)
    level_dbfs = 10.0 * math.log10(power)
    if level_dbfs >= SILENT_DBFS:
        return None
    text, limit_text = _texts(level_dbfs, SILENT_DBFS, 1.0)
    message = f"The channel is silent: its level is {text} dBFS, below {limit_text} dBFS."
    return Reason(SILENT_CODE, message, None, level_dbfs, SILENT_DBFS)


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
