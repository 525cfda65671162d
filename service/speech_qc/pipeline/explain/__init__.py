"""Evidence for events: the band, the level over the floor, the SNR and the kind of sound, for a person to check."""

from service.explain.band import Against, Band
from service.explain.evidence import MAX_EVENTS, Evidence, Explainer
from service.explain.spectra import MAX_FRAMES, SpectrumKeeper

__all__ = ["MAX_EVENTS", "MAX_FRAMES", "Against", "Band", "Evidence", "Explainer", "SpectrumKeeper"]
