"""Evidence for events: the band, the level over the floor, the SNR and the kind of sound, for a person to check."""

from speech_qc.pipeline.explain.band import Band
from speech_qc.pipeline.explain.evidence import MAX_EVENTS, Evidence, Explainer
from speech_qc.pipeline.explain.spectra import MAX_FRAMES, SpectrumKeeper

__all__ = ["MAX_EVENTS", "MAX_FRAMES", "Band", "Evidence", "Explainer", "SpectrumKeeper"]
