"""Data sets as sources of an archive: NeMo, Lhotse and Kaldi manifests, Parquet, Hugging Face data sets, WebDataset."""
