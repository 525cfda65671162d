"""Train, evaluate and export the detector that `speech_qc` runs; requires the `train` extra."""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # `speech_qc` sets it too, but not every module here imports `speech_qc`
