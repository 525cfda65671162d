"""Per-channel energy normalisation instead of the log-mel image, for comparison; the service does not support it.

Source: Wang et al. 2017, "Trainable frontend for robust and far-field keyword spotting".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.model import Detector, ModelConfig

SMOOTHING = 0.025  # per 10 ms row: a time constant of 0.4 s
EPSILON = 1e-9


class PcenDetector(Detector):
    """A detector whose image is (E / (ε + M)^α + δ)^r - δ^r, where M is a running mean of the band's power E.

    Gain α, bias δ and root r are trained per band, starting from 0.98, 2 and 0.5. It supports only whole sequences,
    because the mean is not part of the packed state.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        bands = self.spec.mel_bands
        self.log_alpha, self.log_delta, self.log_root = (
            nn.Parameter(torch.full((bands,), value).log()) for value in (0.98, 2.0, 0.5)
        )

    def forward_chunk(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, T / 2, C) and the new state; the running mean is reset in each call."""
        return super().forward_chunk(self.view(features), state)

    def view(self, features: Tensor) -> Tensor:
        """Return features (B, T, F) with normalised mel columns."""
        bands = self.spec.mel_bands
        power = features[..., :bands].exp()
        alpha, delta, root = self.log_alpha.exp(), self.log_delta.exp(), self.log_root.exp()
        image = (power / (EPSILON + running_mean(power)) ** alpha + delta) ** root - delta**root
        return torch.cat([image, features[..., bands:]], dim=-1)


def running_mean(power: Tensor) -> Tensor:
    """Return the first-order running mean over the time axis of (B, T, bands), starting with the first row."""
    mean = power[:, 0]
    rows = [mean]
    for row in power.unbind(dim=1)[1:]:
        mean = torch.lerp(mean, row, SMOOTHING)
        rows.append(mean)
    return torch.stack(rows, dim=1)
