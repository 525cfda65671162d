"""Trains, evaluates and exports the detector that `service` runs; needs the `train` extra."""
