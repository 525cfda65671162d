"""speech-qc: hears noise and interference in speech, recorded or live, every 20 ms."""

import os

# Published builds of ONNX Runtime tell their makers about machine and models, unless this is there before they load.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__ = "0.1.0"
