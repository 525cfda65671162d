"""Verdict profiles: named sets of limits, read from one YAML file that a user can replace.

The file is checked strictly. A misspelt, impossible or contradictory limit prevents startup and is named in the error,
because a profile that silently checks less than its author intended is worse than none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from speech_qc.errors import ProtocolError, SettingsError
from speech_qc.scoring.limits import Limit
from speech_qc.scoring.measures import MEASURES

BUILT_IN_PROFILES = Path(__file__).with_name("profiles.yaml")
"""The profiles that ship with the service."""


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
