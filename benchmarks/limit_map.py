"""Moves the limits of verdict profiles from one model's scale to another's, for `fit_limits.py`.

Both models measure the same clips. The k-th quantile of the old model's values corresponds to the k-th quantile of the
new model's (equipercentile equating: Kolen and Brennan, Test Equating, Scaling, and Linking). So the same share of the
clips is beyond a limit before and after. A regression of the new values on the old ones would not keep that share: it
draws both ends towards the mean, the more the less the two models agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import yaml
from ladders import LADDERS
from numpy.typing import NDArray
from pydantic import ValidationError

from speech_qc.scoring import MEASURES, Limit, Profiles
from speech_qc.scoring.measures import Figures
from speech_qc.scoring.summary import AVERAGED, MOS_LABELS, SNR_KINDS

RESAMPLES = 200
GROUPS = 25
PER_GROUP = 8
"""Fewest clips whose mean is a point of the map; a measure with fewer than twice as many clips keeps its limits."""

ROUNDING: Mapping[str, float] = {
    **{f"{name}_db": 0.5 for name in ("snr", *(f"{kind}_snr" for kind in SNR_KINDS))},
    **dict.fromkeys(AVERAGED, 0.01),
    **dict.fromkeys(MOS_LABELS, 0.1),
}
"""The measures that are estimated by a model on a scale, with the step to which their limits are rounded."""

_MIXED = frozenset(name for name, ladder in LADDERS.items() if ladder.unit == "dB SNR")
CAUSES: Mapping[str, frozenset[str]] = {
    "snr_db": _MIXED,
    "stationary_noise_snr_db": frozenset({"white noise", "pink noise", "fan", "machines"}),
    "transient_noise_snr_db": frozenset({"clicks", "knocks"}),
    "interfering_speech_snr_db": frozenset({"second talker", "babble"}),
    "music_snr_db": frozenset({"music"}),
    "tone_snr_db": frozenset({"hum", "whistle"}),
    "reverberation": frozenset({"reverberation"}),
}
"""Ladders on which a measure is compared; all for a measure that is not listed.

Elsewhere a measure is mostly a false alarm. If a new model had fewer of these, quantiles would take it for another
scale.
"""

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Heard:
    """One clip, measured by both models.

    Args:
        talker: Name of the talker.
        ladder: Name of the ladder.
        step: Step of the ladder.
        old: Figures by the old model.
        new: Figures by the new model.
    """

    talker: str
    ladder: str
    step: int
    old: Figures
    new: Figures


@dataclass(frozen=True)
class Fitted:
    """One bound of a profile on both scales.

    Args:
        profile: Name of the profile.
        measure: Name of the measure.
        bound: Name of the bound, such as `warn_below`.
        old: Value for the old model.
        new: Value for the new model; the old one if the bound stays.
        spread: Half of the 95 % interval of the mapped value over talkers; None if there are too few clips.
    """

    profile: str
    measure: str
    bound: str
    old: float
    new: float
    spread: float | None


@dataclass(frozen=True)
class ScaleMap:
    """A monotone map between two scales, linear between its points; beyond them the shift stays that of the last one.

    Args:
        points: Values on the old scale, ascending, (points,).
        shifts: What to add to each, (points,).
    """

    points: Float64
    shifts: Float64

    @classmethod
    def match(cls, old: Float64, new: Float64) -> ScaleMap:
        """Match the quantiles of two samples of the same clips, each (clips,); each point is a mean of several clips.

        Raises:
            ValueError: There are fewer than `PER_GROUP` clips.
        """
        if len(old) < PER_GROUP:
            raise ValueError(f"expected at least {PER_GROUP} clips, got {len(old)}: use more talkers")
        groups = min(GROUPS, len(old) // PER_GROUP)
        means = [np.array([part.mean() for part in np.array_split(np.sort(values), groups)]) for values in (old, new)]
        points, place = np.unique(means[0], return_inverse=True)  # a scale that saturates repeats a value
        return cls(points, np.bincount(place, means[1] - means[0]) / np.bincount(place))

    def __call__(self, value: float) -> float:
        """Return the value on the new scale."""
        return value + float(np.interp(value, self.points, self.shifts))


@dataclass(frozen=True)
class MeasureMap:
    """The map of one measure, and the same from resampled talkers."""

    measure: str
    map: ScaleMap
    resampled: Sequence[ScaleMap]

    def __call__(self, value: float) -> tuple[float, float]:
        """Return a bound on the new scale, rounded, and its spread."""
        low, high = np.percentile([other(value) for other in self.resampled], (2.5, 97.5))
        step, measure = ROUNDING[self.measure], MEASURES[self.measure]
        rounded = round(round(self.map(value) / step) * step, 6)
        return min(max(rounded, measure.low), measure.high), float(high - low) / 2.0


def map_measure(measure: str, clips: Iterable[Heard], rng: np.random.Generator) -> MeasureMap | None:
    """Compare the two models' values of a measure; None if too few clips have one."""
    causes = CAUSES.get(measure)
    by_talker: dict[str, list[tuple[float, float]]] = {}
    for clip in clips:
        if causes is None or not causes.isdisjoint(clip.ladder.split(" + ")):
            old, new = clip.old.value(measure), clip.new.value(measure)
            if old is not None and new is not None:
                by_talker.setdefault(clip.talker, []).append((old, new))
    pairs = [np.array(own) for own in by_talker.values()]
    if sum(map(len, pairs)) < 2 * PER_GROUP or min(map(len, pairs)) == 0:
        return None

    def match(chosen: Iterable[int]) -> ScaleMap:
        return ScaleMap.match(*np.concatenate([pairs[i] for i in chosen]).T)

    draws = rng.integers(len(pairs), size=(RESAMPLES, len(pairs)))
    enough = [draw for draw in draws if sum(len(pairs[i]) for i in draw) >= PER_GROUP]
    return MeasureMap(measure, match(range(len(pairs))), [match(draw) for draw in enough])


def fit_bounds(profiles: Profiles, clips: Sequence[Heard], seed: int) -> list[Fitted]:
    """Map every bound of a measure in `ROUNDING`; a bound that moves by no more than its spread stays.

    Raises:
        ValueError: There are no clips.
    """
    if not clips:
        raise ValueError("expected clips, got none: choose a split with talkers")
    maps = {name: map_measure(name, clips, np.random.default_rng(seed)) for name in ROUNDING}
    return [
        fitted
        for name, profile in profiles.profiles.items()
        for measure, limit in profile.limits.items()
        if measure in maps
        for fitted in fit_limit(name, measure, limit, maps[measure])
    ]


def fit_limit(profile: str, measure: str, limit: Limit, scale: MeasureMap | None) -> list[Fitted]:
    """Map the bounds of one limit; all stay if there is no map."""
    if scale is None:
        return [Fitted(profile, measure, bound, value, value, None) for bound, value in limit.given()]
    mapped = {bound: (value, *scale(value)) for bound, value in limit.given()}
    moved = {bound: new if abs(new - old) > spread else old for bound, (old, new, spread) in mapped.items()}
    try:
        Limit(**moved)
    except ValidationError:  # a bound passed one that stayed, so all move
        moved = {bound: new for bound, (_, new, _) in mapped.items()}
    return [Fitted(profile, measure, bound, old, moved[bound], spread) for bound, (old, _, spread) in mapped.items()]


def with_bounds(profiles: Profiles, fitted: Iterable[Fitted]) -> Profiles:
    """Return the profiles with the new values."""
    changed = profiles.model_dump(exclude_none=True)
    for item in fitted:
        changed["profiles"][item.profile]["limits"][item.measure][item.bound] = item.new
    return Profiles.model_validate(changed)


def with_numbers(text: str, fitted: Iterable[Fitted]) -> str:
    """Return the text of a profile file with the new numbers in place of the old ones, and all else as it was.

    Raises:
        KeyError: The text has no such bound.
    """
    places = {
        (profile, measure, bound): node
        for profile, body in _entries(_child(yaml.compose(text), "profiles"))
        for measure, limit in _entries(_child(body, "limits"))
        for bound, node in _entries(limit)
    }
    spans = [(places[item.profile, item.measure, item.bound], item.new) for item in fitted if item.new != item.old]
    for node, value in sorted(spans, key=lambda span: span[0].start_mark.index, reverse=True):
        text = text[: node.start_mark.index] + f"{value:g}" + text[node.end_mark.index :]
    return text


def _entries(node: yaml.Node | None) -> list[tuple[str, yaml.Node]]:
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(f"expected a mapping, got {node}: use a profile file that the service can read")
    return [(key.value, value) for key, value in node.value]


def _child(node: yaml.Node | None, name: str) -> yaml.Node:
    return dict(_entries(node))[name]
