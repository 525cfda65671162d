"""The detector: causal convolutions on the mel image, fused with waveform features, followed by a GRU.

Training and streaming share one path: `forward` is `forward_chunk` from a zero state. The state is one packed vector
per stream (batch axis 0), so the service can gather and scatter it without knowing its contents.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from speech_qc.contract import LABEL_CATALOG, FeatureSpec
from training.memory import keep_of, leaky_means
from training.pcen import Pcen

Fusion = Literal["none", "early", "late"]

VALUE_RANGES: dict[str, tuple[float, float]] = {"probability": (0.0, 1.0), "db": (-15.0, 45.0), "mos": (1.0, 5.0)}
"""Value range of a head by the kind of its label."""

PAST_ROWS = 7
"""Mel rows before a chunk in the receptive field of its first frame: (2 + 2) + 2 · 2 - 1 over three convolutions."""

MEMORY_S = (1.0, 4.0, 16.0)
"""Time constants of the slow memory: what lasts for seconds is told from what comes and goes."""

SNR_SMOOTHING_S = 0.1
"""Time constant of the band energies that the speech shares weigh; the label's SNR is one of 220 ms means."""

SNR_RANGE_DB = (-20.0, 50.0)
SNR_MIDDLE_DB = 15.0
"""Middle of the label's range, where the logit of `snr_db` is 0."""

ENERGY_FLOOR = 1e-10

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
    pcen: bool = False
    """Give the convolutions a second image beside the log-mel one, normalised by PCEN."""
    memory_size: int = Field(default=0, ge=0)
    """Width of the slow memory, leaky means of the GRU's output over each of `MEMORY_S`; 0 leaves it out."""
    snr_bands: int = Field(default=0, ge=0)
    """Bands in which the share of speech in the power is estimated for `snr_db`; 0 estimates the SNR directly."""
    fusion: Fusion = "early"
    lookahead_frames: int = Field(default=2, ge=0, le=5)
    """Number of output frames (20 ms) by which a score lags its frame."""


class Detector(nn.Module):
    """CNN-RNN over feature rows.

    Shapes:
        features: float32 (B, T, F), T a multiple of 2.
        state: float32 (B, S): the last seven rows of the mel image, normalised; with PCEN its level and the last seven
            rows of its image; the hidden state of each GRU; the means of the slow memory and of the band energies.
        scores: float32 (B, T / 2, C); frame j of the output refers to frame j - lookahead_frames of the input.
    """

    mean: Tensor
    spread: Tensor
    low: Tensor
    high: Tensor
    calibration: Tensor
    snr_column: Tensor

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
        self.conv1 = nn.Conv2d(1 + config.pcen, one, (3, 5), stride=(1, 2), padding=(0, 2), bias=False)
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
        read = config.hidden_size + len(MEMORY_S) * config.memory_size
        self.head = _head(read, config.head_size, judged)
        # Opinions form over seconds, so a separate small GRU learns its own, longer memory.
        self.mos_gru = nn.GRU(config.hidden_size, config.mos_size, batch_first=True) if any(opinions) else None
        self.mos_head = nn.Linear(config.mos_size, sum(opinions)) if any(opinions) else None
        late = config.fusion == "late"
        self.wave_gru = nn.GRU(config.wave_size, config.wave_size, batch_first=True) if late else None
        self.wave_head = _head(config.wave_size, config.head_size, judged) if late else None
        self.pcen = Pcen(spec.mel_bands, spec.hops_per_frame, spec.frame_hop_s) if config.pcen else None
        self.memory = nn.Linear(config.hidden_size, config.memory_size) if config.memory_size else None
        self.shares = nn.Linear(read, config.snr_bands) if config.snr_bands else None
        if config.snr_bands:
            if "snr_db" not in config.labels or spec.mel_bands % config.snr_bands:
                raise ValueError(
                    f"snr_bands needs the label snr_db and a divisor of {spec.mel_bands}, got {config.snr_bands}"
                )
            self.snr_gain = nn.Parameter(torch.zeros(1))
            column = torch.tensor([float(name == "snr_db") for name in config.labels[:judged]])
            self.register_buffer("snr_column", column, persistent=False)

    @property
    def state_parts(self) -> tuple[int, ...]:
        """Lengths of the parts of one stream's state, in packing order; a part that the net lacks has none."""
        mel, config = self.spec.mel_bands, self.config
        gated = [gru.hidden_size for gru in (self.gru, self.wave_gru, self.mos_gru) if gru is not None]
        images = [PAST_ROWS * mel, mel, PAST_ROWS * mel] if config.pcen else [PAST_ROWS * mel]
        means = [len(MEMORY_S) * config.memory_size] if config.memory_size else []
        return (*images, *gated, *means, *([config.snr_bands] if config.snr_bands else []))

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
        logits, _, new_state = self.forward_parts(features, state)
        return logits, new_state

    def forward_parts(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Advance streams by one chunk, as `forward_chunk`; also return what only training looks at.

        Returns:
            Logits (B, T / 2, C), logits of the speech shares (B, T / 2, snr_bands) or None, the new state (B, S).
        """
        before = list(torch.split(state, list(self.state_parts), dim=1))
        after: list[Tensor] = []

        def read(gru: nn.GRU, rows: Tensor) -> Tensor:
            out: Tensor
            out, last = gru(rows, before.pop(0).unsqueeze(0).contiguous())  # (B, T / 2, H), (1, B, H)
            after.append(last.squeeze(0))
            return out

        mel_bands = self.spec.mel_bands
        rows = (features - self.mean) / self.spread  # (B, T, F)
        mel, wave = torch.split(rows, [mel_bands, len(self.spec.waveform_columns)], dim=2)
        mel = torch.cat([before.pop(0).reshape(-1, PAST_ROWS, mel_bands), mel], dim=1)  # (B, 7 + T, 64)
        after.append(mel[:, -PAST_ROWS:].flatten(1))
        images = mel.unsqueeze(1)
        if self.pcen is not None:
            scale = (self.mean[:mel_bands], self.spread[:mel_bands])
            image, level = self.pcen(features[..., :mel_bands], before.pop(0), *scale)
            image = torch.cat([before.pop(0).reshape(-1, PAST_ROWS, mel_bands), image], dim=1)
            after += [level, image[:, -PAST_ROWS:].flatten(1)]
            images = torch.stack([mel, image], dim=1)  # (B, 2, 7 + T, 64)
        maps = torch.relu(self.norm1(self.conv1(images)))  # (B, c1, 5 + T, 32)
        maps = torch.relu(self.norm2(self.conv2(maps)))  # (B, c2, 2 + T / 2, 16)
        maps = torch.relu(self.norm3(self.conv3(maps)))  # (B, c3, T / 2, 8)
        joint = torch.relu(self.image(maps)).squeeze(3).transpose(1, 2)  # (B, T / 2, image)
        if self.wave is not None:
            pairs = wave.reshape(wave.shape[0], -1, wave.shape[2] * self.spec.hops_per_frame)  # (B, T / 2, 18)
            wave = torch.relu(self.wave(pairs))
            joint = torch.cat([joint, wave], dim=2) if self.config.fusion == "early" else joint
        hidden = read(self.gru, joint)
        late = read(self.wave_gru, wave) if self.wave_gru is not None else None
        opinions = read(self.mos_gru, hidden) if self.mos_gru is not None else None
        heard = self._with_memory(hidden, before, after)
        logits = self.head(heard)
        if late is not None and self.wave_head is not None:
            logits = logits + self.wave_head(late)
        shares = None if self.shares is None else self.shares(heard)
        if shares is not None:
            logits = self._with_snr(logits, shares, features[..., :mel_bands], before, after)
        if opinions is not None and self.mos_head is not None:
            logits = torch.cat([logits, self.mos_head(opinions)], dim=2)
        return logits.float(), shares, torch.cat([part.float() for part in after], dim=1)

    def _with_memory(self, hidden: Tensor, before: list[Tensor], after: list[Tensor]) -> Tensor:
        """Return the GRU's output with its leaky means over `MEMORY_S`, (B, T / 2, H + 3 D)."""
        if self.memory is None:
            return hidden
        noted = torch.tanh(self.memory(hidden))
        start = before.pop(0).reshape(-1, len(MEMORY_S), self.config.memory_size)
        means = leaky_means(noted, start, [keep_of(seconds, self.spec.frame_hop_s) for seconds in MEMORY_S])
        after.append(means[:, :, -1].flatten(1))
        return torch.cat([hidden, means.transpose(1, 2).flatten(2)], dim=2)

    def _with_snr(
        self, logits: Tensor, shares: Tensor, log_mel: Tensor, before: list[Tensor], after: list[Tensor]
    ) -> Tensor:
        """Add the SNR that follows from the speech shares of the bands to the logit of `snr_db`."""
        bands, hops = self.config.snr_bands, self.spec.hops_per_frame
        power = log_mel.exp().reshape(log_mel.shape[0], -1, hops, bands, self.spec.mel_bands // bands).mean(dim=(2, 4))
        # The state is a logarithm, so that it has the range of the other parts.
        start = (10.0 * before.pop(0)).exp().unsqueeze(1) * ENERGY_FLOOR
        keeps = (keep_of(SNR_SMOOTHING_S, self.spec.frame_hop_s),)
        means = leaky_means(power, start, keeps).squeeze(1)
        after.append((means[:, -1] / ENERGY_FLOOR).log() / 10.0)
        share = torch.sigmoid(shares.float())
        speech, rest = (means * share).sum(dim=2), (means * (1.0 - share)).sum(dim=2)
        found_db = 10.0 / math.log(10.0) * ((speech + ENERGY_FLOOR).log() - (rest + ENERGY_FLOOR).log())
        offset = self.snr_gain * (found_db.clamp(*SNR_RANGE_DB) - SNR_MIDDLE_DB) / SNR_MIDDLE_DB
        return logits + offset.unsqueeze(2) * self.snr_column

    def scores(self, logits: Tensor) -> Tensor:
        """Return calibrated values in each label's units."""
        return self.low + (self.high - self.low) * torch.sigmoid(logits * self.calibration[0] + self.calibration[1])

    def parameter_count(self) -> int:
        """Return the number of trained weights."""
        return sum(p.numel() for p in self.parameters())

    def macs_per_second(self) -> float:
        """Return multiply-accumulates per second of audio, computed from the shapes; leaky means cost next to none."""
        hops = self.spec.sample_rate_hz / self.spec.hop_samples
        frames = hops / self.spec.hops_per_frame
        total = self.conv1.weight.numel() * self.bands[1] * hops + self.image.weight.numel() * frames
        total += (self.conv2.weight.numel() * self.bands[2] + self.conv3.weight.numel() * self.bands[3]) * frames
        dense = [m for m in self.modules() if isinstance(m, (nn.Linear, nn.GRU))]
        return total + sum(p.numel() for m in dense for n, p in m.named_parameters() if "weight" in n) * frames


def _head(width: int, hidden: int, labels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, labels))
