"""Evaluation of detectors: material with ground truth, contenders that score it, figures and reports.

`training.evaluate` is the command. Training requires nothing from this package.
"""
