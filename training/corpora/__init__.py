"""Stems on disk: the manifest and its validation, preprocessing, and the meaning of each sound class."""
