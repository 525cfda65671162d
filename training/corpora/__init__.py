"""Stems on disk: the manifest that lists them, its check, their preprocessing, and what each sound class means."""
