"""speech-qc: hears noise and interference in speech, recorded or live, every 20 ms."""

import os

# The published builds of ONNX Runtime tell their makers about machine and models, unless this is there when they are loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__ = "0.1.0"
