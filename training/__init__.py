"""Trains, evaluates and exports the detector that `service` runs; needs the `train` extra."""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # as in `service`, which is not there wherever a part of this runs
