"""The model contract: what a model file must declare, and the check that it does.

The contract is one JSON document in the ONNX file (metadata key `speechqc`). The service takes labels, thresholds,
feature parameters, look-ahead and state size only from there, so that another model is a drop-in replacement. Imports
nothing from the project.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

METADATA_KEY = "speechqc"
"""Key of the JSON document in the ONNX file's metadata map."""

CONTRACT_VERSION = 1
"""Incremented if a change would make older services misread newer files."""

MAX_LOOKAHEAD_S = 0.1
"""Maximum time that live scores can wait for the model's future context."""

Family = Literal["speech", "headline", "noise", "interference", "impairment", "measure"]
Kind = Literal["probability", "db", "mos"]

LABEL_CATALOG: Mapping[str, tuple[Family, Kind]] = {
    "speech": ("speech", "probability"),
    "noise": ("headline", "probability"),
    "interference": ("headline", "probability"),
    "stationary_noise": ("noise", "probability"),
    "transient_noise": ("noise", "probability"),
    "interfering_speech": ("interference", "probability"),
    "music": ("interference", "probability"),
    "tone": ("interference", "probability"),
    "clipping": ("impairment", "probability"),
    "dropout": ("impairment", "probability"),
    "reverberation": ("impairment", "probability"),
    "snr_db": ("measure", "db"),
    "sig": ("measure", "mos"),
    "bak": ("measure", "mos"),
    "ovrl": ("measure", "mos"),
}
"""Every label of the product, with its family and the meaning of its values."""

REQUIRED_LABELS = ("speech", "noise", "interference", "snr_db")
"""Labels that summary and verdict need."""

WAVEFORM_COLUMNS = (
    "log_energy",
    "log_peak",
    "crest_db",
    "zero_crossing_ratio",
    "rail_ratio",
    "flat_top_ratio",
    "identical_run",
    "zero_run",
    "dc_offset",
)
"""Columns of the waveform view, in order; `speech_qc.audio.features` describes how each is measured."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FeatureSpec(_Frozen):
    """All parameters of the feature computation; the defaults are those of this service."""

    sample_rate_hz: int = 16_000
    hop_samples: int = 160
    window_samples: int = 400
    window: str = "hann"
    fft_size: int = 512
    mel_bands: int = 64
    mel_low_hz: float = 20.0
    mel_high_hz: float = 7_600.0
    mel_scale: str = "htk"
    log_floor: float = 1e-10
    waveform_columns: tuple[str, ...] = WAVEFORM_COLUMNS
    hops_per_frame: int = 2

    @property
    def columns(self) -> int:
        """Width F of one feature row: mel bands, then waveform columns."""
        return self.mel_bands + len(self.waveform_columns)

    @property
    def frame_samples(self) -> int:
        """Samples between two output frames."""
        return self.hop_samples * self.hops_per_frame

    @property
    def frame_hop_s(self) -> float:
        """Seconds between two output frames."""
        return self.frame_samples / self.sample_rate_hz

    @property
    def overlap_samples(self) -> int:
        """Samples by which a window extends beyond its own hop."""
        return self.window_samples - self.hop_samples


class LabelSpec(_Frozen):
    """One score column: its meaning and, for probabilities, the event rule calibrated for this model."""

    name: str
    family: Family
    kind: Kind
    low: float = 0.0
    high: float = 1.0
    enter: float | None = Field(default=None, ge=0.0, le=1.0)
    exit: float | None = Field(default=None, ge=0.0, le=1.0)
    min_duration_s: float = Field(default=0.1, ge=0.0)
    merge_gap_s: float = Field(default=0.2, ge=0.0)

    @model_validator(mode="after")
    def _consistent(self) -> LabelSpec:
        expected = LABEL_CATALOG.get(self.name)
        if expected is None:
            raise ValueError(f"label {self.name!r} is unknown: expected one of {', '.join(LABEL_CATALOG)}")
        if (self.family, self.kind) != expected:
            raise ValueError(f"label {self.name!r}: expected family/kind {expected}, got {(self.family, self.kind)}")
        if self.low >= self.high:
            raise ValueError(f"label {self.name!r}: low {self.low} is not below high {self.high}")
        if self.kind == "probability":
            if self.enter is None or self.exit is None:
                raise ValueError(f"label {self.name!r} is a probability and needs enter and exit thresholds")
            if self.exit > self.enter:
                raise ValueError(f"label {self.name!r}: exit {self.exit} is above enter {self.enter}")
        return self


class ModelContract(_Frozen):
    """The whole JSON document of a model file."""

    contract_version: int = CONTRACT_VERSION
    name: str
    version: str = Field(pattern=r"^\d+\.\d+\.\d+$")
    features: FeatureSpec = FeatureSpec()
    labels: tuple[LabelSpec, ...]
    lookahead_frames: int = Field(ge=0)
    state_size: int = Field(ge=1)
    training: dict[str, Any] = {}
    """Commit, configuration, seed and manifest hash that produced the weights."""
    data: tuple[dict[str, Any], ...] = ()
    """Sources with licence and hours."""
    metrics: dict[str, Any] = {}
    """Results measured when the file was created, each with the material it was measured on."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the score columns, in order."""
        return tuple(label.name for label in self.labels)

    def index(self, name: str) -> int:
        """Return the column of a label; raise KeyError if this model has no such head."""
        try:
            return self.label_names.index(name)
        except ValueError:
            raise KeyError(name) from None

    def has(self, name: str) -> bool:
        """Whether this model has a head for the label."""
        return name in self.label_names

    @property
    def lookahead_s(self) -> float:
        """Seconds of future the model uses beyond the frame it scores, without the window's overlap."""
        return self.lookahead_frames * self.features.frame_hop_s

    @property
    def latency_s(self) -> float:
        """Seconds from the end of a frame until its last needed sample has arrived."""
        return self.lookahead_s + self.features.overlap_samples / self.features.sample_rate_hz

    def check(
        self,
        inputs: Mapping[str, Sequence[int | str | None]],
        outputs: Mapping[str, Sequence[int | str | None]],
    ) -> list[str]:
        """List every reason why this service cannot run the model; empty if there is none.

        Args:
            inputs: Tensor name to shape of the graph's inputs; symbolic axes as str or None.
            outputs: The same for the outputs.
        """
        wrong: list[str] = []
        if self.contract_version != CONTRACT_VERSION:
            wrong.append(f"contract_version: expected {CONTRACT_VERSION}, got {self.contract_version}")
        expected = FeatureSpec()
        for name in FeatureSpec.model_fields:
            ours, theirs = getattr(expected, name), getattr(self.features, name)
            if ours != theirs:
                wrong.append(f"features.{name}: expected {ours!r}, got {theirs!r}")
        names = self.label_names
        wrong += [f"labels: {name!r} is declared twice" for name in sorted({n for n in names if names.count(n) > 1})]
        wrong += [f"labels: {name!r} is required but missing" for name in REQUIRED_LABELS if name not in names]
        if self.lookahead_s > MAX_LOOKAHEAD_S:
            wrong.append(f"lookahead_frames: expected at most {MAX_LOOKAHEAD_S} s, got {self.lookahead_s} s")
        wrong += _check_shapes("input", inputs, {"features": (None, None, self.features.columns),
                                                 "state": (None, self.state_size)})  # fmt: skip
        wrong += _check_shapes("output", outputs, {"scores": (None, None, len(self.labels)),
                                                   "new_state": (None, self.state_size)})  # fmt: skip
        return wrong


def _check_shapes(
    side: str, given: Mapping[str, Sequence[int | str | None]], expected: Mapping[str, tuple[int | None, ...]]
) -> list[str]:
    """Compare tensor names and shapes; None in `expected` means a symbolic axis."""
    wrong = [f"{side} {name!r}: not part of the contract" for name in given if name not in expected]
    for name, shape in expected.items():
        if name not in given:
            wrong.append(f"{side} {name!r}: expected, but the graph has {', '.join(given) or 'none'}")
            continue
        found = tuple(given[name])
        fits = len(found) == len(shape) and all(
            isinstance(have, int) is False if want is None else (have == want or not isinstance(have, int))
            for want, have in zip(shape, found, strict=True)
        )
        if not fits:
            text = ", ".join("symbolic" if want is None else str(want) for want in shape)
            wrong.append(f"{side} {name!r}: expected shape ({text}), got {found}")
    return wrong


def parse_contract(document: str) -> tuple[ModelContract | None, list[str]]:
    """Read the JSON document of a model file.

    Returns:
        The contract and an empty list, or None and one line per mistake in the document.
    """
    try:
        return ModelContract.model_validate_json(document), []
    except ValidationError as error:
        return None, [f"{'.'.join(str(part) for part in e['loc']) or 'document'}: {e['msg']}" for e in error.errors()]
