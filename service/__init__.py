"""speech-qc: hears noise and interference in speech, recorded or live, every 20 ms."""

__version__ = "0.1.0"
