"""Verdict profiles: named sets of limits, read from one YAML file that a user can replace.

The file is checked strictly. A misspelt, impossible or contradictory limit prevents startup and is named in the error,
because a profile that silently checks less than its author intended is worse than none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from speech_qc.contract import LABEL_CATALOG
from speech_qc.errors import ProtocolError, SettingsError

BUILT_IN_PROFILES = Path(__file__).with_name("profiles.yaml")
"""The profiles that ship with the service."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A quantity that can have a limit.

    Args:
        subject: Its name in a sentence.
        unit: Shown after the value; `%` for shares of time, which are 0 to 1 in the limits.
        low: Lowest possible value.
        high: Highest possible value.
        label: The label that it describes; None for measurements of the signal itself.
        needs_speech: Whether it is meaningless in a recording without speech.
    """

    subject: str
    unit: str
    low: float
    high: float
    label: str | None = None
    needs_speech: bool = True


def _measures() -> dict[str, Measure]:
    table = {
        f"{name}_ratio": Measure(f"the share of time with {name.replace('_', ' ')}", "%", 0.0, 1.0, name)
        for name, (_, kind) in LABEL_CATALOG.items()
        if kind == "probability"
    }
    table["snr_db"] = Measure("the signal-to-noise ratio", "dB", -100.0, 100.0, "snr_db")
    for name, subject in (("sig", "the speech"), ("bak", "the background"), ("ovrl", "the overall")):
        table[name] = Measure(f"{subject} quality score", "MOS", 1.0, 5.0, name)
    for label, plural in (("dropout", "dropouts"), ("transient_noise", "transient_noises")):
        words = plural.replace("_", " ")
        table[f"{plural}_per_min"] = Measure(f"the number of {words}", "per minute", 0.0, 3000.0, label)
    return table | {
        "rms_dbfs": Measure("the mean level", "dBFS", -200.0, 10.0),
        "bandwidth_hz": Measure("the bandwidth", "Hz", 0.0, 200_000.0),
        "peak_dbfs": Measure("the peak level", "dBFS", -200.0, 10.0, needs_speech=False),
        "clipped_ratio": Measure("the share of clipped samples", "%", 0.0, 1.0, needs_speech=False),
        "digital_silence_ratio": Measure("the share of digital silence", "%", 0.0, 1.0, needs_speech=False),
        "loudness_lufs": Measure("the loudness", "LUFS", -70.0, 40.0),
        "loudness_range_lu": Measure("the loudness range", "LU", 0.0, 110.0),
        "true_peak_dbtp": Measure("the true peak", "dBTP", -200.0, 40.0, needs_speech=False),
        "noise_floor_dbfs": Measure("the noise floor", "dBFS", -140.0, 40.0),
        "high_band_dbfs": Measure("the level of steady sound above 8 kHz", "dBFS", -200.0, 40.0, needs_speech=False),
        "cancellation_db": Measure("the level lost by mixing the channels", "dB", -20.0, 120.0, needs_speech=False),
        "dc_offset": Measure("the size of the DC offset", "of full scale", 0.0, 1.0, needs_speech=False),
    }


MEASURES: Mapping[str, Measure] = MappingProxyType(_measures())
"""Every measure that can have a limit. `dc_offset` is judged by its absolute value."""


class Limit(BaseModel):
    """Bounds of one measure; a value equal to a bound does not violate it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    warn_below: float | None = None
    fail_below: float | None = None
    warn_above: float | None = None
    fail_above: float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Limit:
        bounds = (self.fail_below, self.warn_below, self.warn_above, self.fail_above)
        given = [bound for bound in bounds if bound is not None]
        if not given:
            raise ValueError("expected at least one of warn_below, fail_below, warn_above, fail_above, got none")
        if given != sorted(given):
            raise ValueError(
                "expected fail_below <= warn_below <= warn_above <= fail_above (those that are set), "
                f"got {', '.join(f'{bound:g}' for bound in given)} in that order"
            )
        return self

    def given(self) -> Iterable[tuple[str, float]]:
        """List the bounds that are set, by name."""
        return ((name, value) for name, value in self if value is not None)


class Profile(BaseModel):
    """The requirements that a recording must meet to pass, for one kind of use."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    description: str = ""
    limits: dict[str, Limit] = Field(min_length=1)

    @field_validator("limits")
    @classmethod
    def _possible(cls, limits: dict[str, Limit]) -> dict[str, Limit]:
        wrong = []
        for name, limit in limits.items():
            measure = MEASURES.get(name)
            if measure is None:
                wrong.append(f"limit {name!r} is unknown: expected one of {', '.join(MEASURES)}")
                continue
            wrong += [
                f"limit {name!r}: expected {bound} from {measure.low:g} to {measure.high:g}, got {value:g}"
                for bound, value in limit.given()
                if not measure.low <= value <= measure.high
            ]
        if wrong:
            raise ValueError("; ".join(wrong))
        return limits


class Profiles(BaseModel):
    """All profiles of one file, by name."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    profiles: dict[str, Profile] = Field(min_length=1)

    @property
    def names(self) -> tuple[str, ...]:
        """Names in the order of the file."""
        return tuple(self.profiles)

    def get(self, name: str) -> Profile:
        """Find a profile.

        Raises:
            ProtocolError: No profile has this name; the message lists all profiles.
        """
        try:
            return self.profiles[name]
        except KeyError:
            raise ProtocolError(
                f"expected profile to be one of {', '.join(self.names)}, got {name!r}", known=list(self.names)
            ) from None


def load_profiles(path: Path | None = None) -> Profiles:
    """Read and check a profile file.

    Args:
        path: YAML file; None for the built-in profiles.

    Raises:
        SettingsError: The file cannot be read, is not YAML, or has an invalid limit; names file, profile and limit.
    """
    path = BUILT_IN_PROFILES if path is None else path
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"profiles file {path} cannot be read: {error}; set SPEECHQC_PROFILES_PATH to a YAML file"
        ) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise SettingsError(f"profiles file {path} is not valid YAML: {error}") from error
    try:
        return Profiles.model_validate(content)
    except ValidationError as error:
        lines = [f"{_location(e['loc'])}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()]
        raise SettingsError(f"invalid profiles in {path}:\n  " + "\n  ".join(lines)) from error


def _location(loc: tuple[int | str, ...]) -> str:
    """Describe a location in the file: `profile 'dataset', limit 'snr_db', warn_below`."""
    words = [str(part) for part in loc]
    if words[:1] != ["profiles"] or len(words) == 1:
        return ".".join(words) or "document"
    location = [f"profile {words[1]!r}"]
    rest = words[2:]
    if rest[:1] == ["limits"] and len(rest) > 1:
        location.append(f"limit {rest[1]!r}")
        rest = rest[2:]
    return ", ".join([*location, *rest])


class _StrictLoader(yaml.SafeLoader):
    """A SafeLoader that rejects duplicate keys; YAML libraries silently keep the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"{', '.join(twice)} occurs twice in one mapping", node.start_mark
            )
        return super().construct_mapping(node, deep)
