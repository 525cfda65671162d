"""Trains, evaluates and exports the detector that `speech_qc` runs; needs the `train` extra."""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # as in `speech_qc`, which is not there wherever a part of this runs
