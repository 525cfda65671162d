"""Inspects whole archives of recordings: exactly once, on this machine or on a cluster, with a report at the end.

`items` and `schema` are what the sources, the engines and the readers of results agree on. A source lists items, an
engine inspects them in batches, `dest` keeps the rows as a Parquet data set.
"""
