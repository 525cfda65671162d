"""Leaky means over time, as part of a net: the same result for any chunking, without a loop in the exported graph."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

BLOCK_FRAMES = 64
"""Frames per matrix product in training; a longer matrix costs more than it saves."""


def keep_of(seconds: float, frame_s: float) -> float:
    """Return the share of a leaky mean that is kept per frame, for a time constant in seconds."""
    return math.exp(-frame_s / seconds)


def leaky_means(rows: Tensor, start: Tensor, keeps: Sequence[float]) -> Tensor:
    """Return m[t] = keep · m[t - 1] + (1 - keep) · rows[t] for all t and every keep.

    The recursion is written as a product with a triangular matrix, because a loop over time is slow in ONNX Runtime.

    Args:
        rows: (B, T, D).
        start: m[-1], (B, K, D).
        keeps: K shares kept per row, in (0, 1).

    Returns:
        (B, K, T, D), float32.
    """
    with torch.autocast("cpu", enabled=False):
        rows, before = rows.float().unsqueeze(1), start.float().unsqueeze(2)
        rates = torch.stack([torch.full((1, 1), math.log(keep)) for keep in keeps])  # (K, 1, 1)
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]  # T is variable there: one product
            return _block(rows, before, rates)
        parts = []
        for part in torch.split(rows, BLOCK_FRAMES, dim=2):
            parts.append(_block(part, before, rates))
            before = parts[-1][:, :, -1:]
        return torch.cat(parts, dim=2)


def _block(rows: Tensor, start: Tensor, rates: Tensor) -> Tensor:
    steps = torch.arange(rows.shape[2], dtype=torch.float32)
    ages = steps.unsqueeze(1) - steps.unsqueeze(0)  # (T, T): how many rows ago
    weights = (1.0 - rates.exp()) * (ages >= 0.0) * (ages.clamp(min=0.0) * rates).exp()  # (K, T, T)
    first = ((steps.unsqueeze(1) + 1.0) * rates).exp()  # (K, T, 1)
    return torch.matmul(weights, rows) + first * start
