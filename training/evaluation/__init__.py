"""How good a detector is: material with truth, contenders that score it, figures, reports.

`training.evaluate` is the command; nothing here is needed for training.
"""
