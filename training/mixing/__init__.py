"""Render degraded speech with exact per-frame targets: draw parameters, apply them, compute targets from the stems."""
