"""Per-channel energy normalisation (PCEN): a second image beside the log-mel one, in which steady sound fades.

Source: Wang et al. 2017, "Trainable frontend for robust and far-field keyword spotting"; Lostanlen et al. 2019,
"Per-channel energy normalization: why and how".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.memory import keep_of, leaky_means

SMOOTHING_S = 0.4


class Pcen(nn.Module):
    """The image (E / M^α + δ)^r - δ^r, where M is a leaky mean of the band's power E over 20 ms frames.

    E has the floor of the features, so M is never 0 and needs no ε, which would add up from chunk to chunk.
    Gain α, bias δ and root r are trained per band, starting from 0.98, 2 and 0.5. The state is log M on the scale of
    the normalised log-mel image, so that a stream that starts from zeros starts from the average level of the training
    material.

    Args:
        bands: Mel bands.
        rows_per_frame: Feature rows per frame.
        frame_s: Length of a frame.
    """

    def __init__(self, bands: int, rows_per_frame: int, frame_s: float) -> None:
        super().__init__()
        self.log_alpha, self.log_delta, self.log_root = (
            nn.Parameter(torch.full((bands,), value).log()) for value in (0.98, 2.0, 0.5)
        )
        self._bands, self._rows, self._keep = bands, rows_per_frame, keep_of(SMOOTHING_S, frame_s)

    def forward(self, log_mel: Tensor, state: Tensor, mean: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image and the new state.

        Args:
            log_mel: Natural log of the power, (B, T, bands).
            state: (B, bands).
            mean: Mean of the log-mel columns, (bands,).
            spread: Their spread, (bands,).

        Returns:
            (B, T, bands) and (B, bands).
        """
        frames = log_mel.reshape(log_mel.shape[0], -1, self._rows, self._bands)  # (B, T / 2, 2, bands)
        start = (state * spread + mean).exp().unsqueeze(1)
        log_means = leaky_means(frames.exp().mean(dim=2), start, (self._keep,)).squeeze(1).log()
        delta, root = self.log_delta.exp(), self.log_root.exp()
        level = (frames - self.log_alpha.exp() * log_means.unsqueeze(2)).exp() + delta
        image = (root * level.log()).exp() - (root * self.log_delta).exp()
        return image.reshape(log_mel.shape[0], -1, self._bands), (log_means[:, -1] - mean) / spread
