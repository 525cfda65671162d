"""The detector: causal convolutions on the mel image, fused with waveform features, followed by a GRU.

Training and streaming share one path: `forward` is `forward_chunk` from a zero state. The state is one packed vector
per stream (batch axis 0), so the service can gather and scatter it without knowing its contents.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from speech_qc.contract import LABEL_CATALOG, FeatureSpec

Fusion = Literal["none", "early", "late"]

VALUE_RANGES: dict[str, tuple[float, float]] = {"probability": (0.0, 1.0), "db": (-15.0, 45.0), "mos": (1.0, 5.0)}
"""Value range of a head by the kind of its label."""

PAST_ROWS = 7
"""Mel rows before a chunk in the receptive field of its first frame: (2 + 2) + 2 · 2 - 1 over three convolutions."""

FIRST_LABELS = tuple(name for name, (_, kind) in LABEL_CATALOG.items() if kind != "mos")
"""Labels whose targets come from stems."""


class ModelConfig(BaseModel):
    """Architecture parameters of the net; sufficient to rebuild it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    labels: tuple[str, ...] = FIRST_LABELS
    channels: tuple[int, int, int] = (16, 32, 48)
    """Feature maps of the three convolutions."""
    image_size: int = Field(default=128, ge=1)
    """Width of the image branch before fusion."""
    wave_size: int = Field(default=32, ge=1)
    """Width of the waveform branch before fusion."""
    hidden_size: int = Field(default=160, ge=1)
    """Width of the GRU."""
    head_size: int = Field(default=64, ge=1)
    mos_size: int = Field(default=24, ge=1)
    """Width of the slow GRU for the opinion scores; it exists only if there is such a label."""
    fusion: Fusion = "early"
    lookahead_frames: int = Field(default=2, ge=0, le=5)
    """Number of output frames (20 ms) by which a score lags its frame."""


class Detector(nn.Module):
    """CNN-RNN over feature rows.

    Shapes:
        features: float32 (B, T, F), T a multiple of 2.
        state: float32 (B, S): the last seven rows of the mel image, normalised, and the hidden state of each GRU.
        scores: float32 (B, T / 2, C); frame j of the output refers to frame j - lookahead_frames of the input.
    """

    mean: Tensor
    spread: Tensor
    low: Tensor
    high: Tensor
    calibration: Tensor

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ModelConfig()
        self.spec = spec = FeatureSpec()
        one, two, three = config.channels
        self.register_buffer("mean", torch.zeros(spec.columns))
        self.register_buffer("spread", torch.ones(spec.columns))
        ranges = [VALUE_RANGES[LABEL_CATALOG[name][1]] for name in config.labels]
        self.register_buffer("low", torch.tensor([low for low, _ in ranges]))
        self.register_buffer("high", torch.tensor([high for _, high in ranges]))
        # Row 0 scales and row 1 shifts the logits; set after training so that scores are probabilities.
        self.register_buffer("calibration", torch.stack([torch.ones(len(ranges)), torch.zeros(len(ranges))]))

        # There is no padding in time. The past rows in the receptive field are part of the state, so the graph needs
        # no caches between layers. Three kernels of 3 reach seven rows back from the first of two hops.
        self.conv1 = nn.Conv2d(1, one, (3, 5), stride=(1, 2), padding=(0, 2), bias=False)
        self.norm1 = nn.BatchNorm2d(one)
        self.conv2 = nn.Conv2d(one, two, (3, 3), stride=(2, 2), padding=(0, 1), bias=False)
        self.norm2 = nn.BatchNorm2d(two)
        self.conv3 = nn.Conv2d(two, three, (3, 3), stride=(1, 2), padding=(0, 1), bias=False)
        self.norm3 = nn.BatchNorm2d(three)
        self.bands = (spec.mel_bands, spec.mel_bands // 2, spec.mel_bands // 4, spec.mel_bands // 8)
        self.image = nn.Conv2d(three, config.image_size, (1, self.bands[3]))
        wave_columns = len(spec.waveform_columns) * spec.hops_per_frame
        self.wave = nn.Linear(wave_columns, config.wave_size) if config.fusion != "none" else None
        joint = config.image_size + (config.wave_size if config.fusion == "early" else 0)
        self.gru = nn.GRU(joint, config.hidden_size, batch_first=True)
        opinions = [LABEL_CATALOG[name][1] == "mos" for name in config.labels]
        if any(opinions) and opinions != sorted(opinions):
            raise ValueError(f"opinion scores must be the last labels, got {', '.join(config.labels)}")
        judged = len(opinions) - sum(opinions)
        self.head = _head(config.hidden_size, config.head_size, judged)
        # Opinions form over seconds, so a separate small GRU learns its own, longer memory.
        self.mos_gru = nn.GRU(config.hidden_size, config.mos_size, batch_first=True) if any(opinions) else None
        self.mos_head = nn.Linear(config.mos_size, sum(opinions)) if any(opinions) else None
        late = config.fusion == "late"
        self.wave_gru = nn.GRU(config.wave_size, config.wave_size, batch_first=True) if late else None
        self.wave_head = _head(config.wave_size, config.head_size, judged) if late else None

    @property
    def state_parts(self) -> tuple[int, ...]:
        """Lengths of the parts of one stream's state, in packing order."""
        gated = [gru.hidden_size for gru in (self.gru, self.wave_gru, self.mos_gru) if gru is not None]
        return (PAST_ROWS * self.spec.mel_bands, *gated)

    @property
    def state_size(self) -> int:
        """Length S of the packed state."""
        return sum(self.state_parts)

    def init_state(self, batch: int) -> Tensor:
        """Return the state of new streams: zeros, (batch, S)."""
        return torch.zeros(batch, self.state_size, device=self.mean.device)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits of whole sequences from a zero state, (B, T / 2, C); `scores` converts them."""
        return self.forward_chunk(features, self.init_state(features.shape[0]))[0]

    def forward_chunk(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Advance streams by one chunk.

        Args:
            features: float32 (B, T, F).
            state: float32 (B, S).

        Returns:
            Logits (B, T / 2, C) and the new state (B, S).
        """
        past, *hidden = torch.split(state, list(self.state_parts), dim=1)
        rows = (features - self.mean) / self.spread  # (B, T, F)
        mel, wave = torch.split(rows, [self.spec.mel_bands, len(self.spec.waveform_columns)], dim=2)
        mel = torch.cat([past.reshape(-1, PAST_ROWS, self.spec.mel_bands), mel], dim=1)  # (B, 7 + T, 64)
        maps = torch.relu(self.norm1(self.conv1(mel.unsqueeze(1))))  # (B, c1, 5 + T, 32)
        maps = torch.relu(self.norm2(self.conv2(maps)))  # (B, c2, 2 + T / 2, 16)
        maps = torch.relu(self.norm3(self.conv3(maps)))  # (B, c3, T / 2, 8)
        joint = torch.relu(self.image(maps)).squeeze(3).transpose(1, 2)  # (B, T / 2, image)
        new_state = [mel[:, -PAST_ROWS:].flatten(1)]
        if self.wave is not None:
            pairs = wave.reshape(wave.shape[0], -1, wave.shape[2] * self.spec.hops_per_frame)  # (B, T / 2, 18)
            wave = torch.relu(self.wave(pairs))
            joint = torch.cat([joint, wave], dim=2) if self.config.fusion == "early" else joint

        def read(gru: nn.GRU, rows: Tensor) -> Tensor:
            out: Tensor
            out, last = gru(rows, hidden[len(new_state) - 1].unsqueeze(0).contiguous())  # (B, T / 2, H), (1, B, H)
            new_state.append(last.squeeze(0))
            return out

        hidden_rows = read(self.gru, joint)
        logits = self.head(hidden_rows)
        if self.wave_gru is not None and self.wave_head is not None:
            logits = logits + self.wave_head(read(self.wave_gru, wave))
        if self.mos_gru is not None and self.mos_head is not None:
            logits = torch.cat([logits, self.mos_head(read(self.mos_gru, hidden_rows))], dim=2)
        return logits, torch.cat(new_state, dim=1)

    def scores(self, logits: Tensor) -> Tensor:
        """Return calibrated values in each label's units."""
        return self.low + (self.high - self.low) * torch.sigmoid(logits * self.calibration[0] + self.calibration[1])

    def parameter_count(self) -> int:
        """Return the number of trained weights."""
        return sum(p.numel() for p in self.parameters())

    def macs_per_second(self) -> float:
        """Return multiply-accumulates per second of audio, computed from the shapes."""
        hops = self.spec.sample_rate_hz / self.spec.hop_samples
        frames = hops / self.spec.hops_per_frame
        total = self.conv1.weight.numel() * self.bands[1] * hops + self.image.weight.numel() * frames
        total += (self.conv2.weight.numel() * self.bands[2] + self.conv3.weight.numel() * self.bands[3]) * frames
        dense = [m for m in self.modules() if isinstance(m, (nn.Linear, nn.GRU))]
        return total + sum(p.numel() for m in dense for n, p in m.named_parameters() if "weight" in n) * frames


def _head(width: int, hidden: int, labels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, labels))
