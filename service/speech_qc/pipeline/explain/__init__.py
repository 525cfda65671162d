"""Evidence for events, for a person to check: the band, the level above the floor, the SNR and the kind of sound."""

from speech_qc.pipeline.explain.band import Band
from speech_qc.pipeline.explain.evidence import MAX_EVENTS, Evidence, Explainer
from speech_qc.pipeline.explain.spectra import MAX_FRAMES, SpectrumKeeper

__all__ = ["MAX_EVENTS", "MAX_FRAMES", "Band", "Evidence", "Explainer", "SpectrumKeeper"]
