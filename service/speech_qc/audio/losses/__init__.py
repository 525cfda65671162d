"""Packet loss: stretches of lost samples that begin and end abruptly within continuing sound.

Packet loss is a matter of samples: it is sought at the native rate, before a resampler smooths its edges.
"""

from speech_qc.audio.losses.bank import LossBank
from speech_qc.audio.losses.grid import Grid, Loss

__all__ = ["Grid", "Loss", "LossBank"]
