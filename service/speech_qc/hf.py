"""Inspects the audio column of Hugging Face data sets: a function for `map`, also for streaming.

    import speech_qc.hf
    from datasets import load_dataset

    calls = load_dataset("audiofolder", data_dir="calls", split="train")
    calls = calls.with_format("arrow").map(speech_qc.hf.inspect, batched=True).with_format(None)

In the format `arrow`, the files are inspected as they are; decoded audio has lost its encoding and perhaps its sample
rate. The extra `hf` installs `datasets`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from speech_qc.columns import COLUMNS, EVENT_FIELDS, Kind, columns_of, error_columns
from speech_qc.embedded.detector import Channels, Detector, default_detector
from speech_qc.errors import InvalidAudio, ProtocolError, SpeechQCError, StartupError
from speech_qc.results import Inspection

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Features

__all__ = ["features", "inspect"]


@overload
def inspect(
    batch: Mapping[str, Sequence[Any]], column: str = ..., *, profile: str | None = ..., channels: Channels = ...
) -> dict[str, list[Any]]: ...
@overload
def inspect(batch: pa.Table, column: str = ..., *, profile: str | None = ..., channels: Channels = ...) -> pa.Table: ...
def inspect(batch: Any, column: str = "audio", *, profile: str | None = None, channels: Channels = "split") -> Any:
    """Inspect a batch of examples; for `dataset.with_format("arrow").map(speech_qc.hf.inspect, batched=True)`.

    A recording that cannot be read has its reason in `qc_error` and None elsewhere; the others are not affected.

    Args:
        batch: A table, as `map` passes in the format `arrow`; or columns of equal length, as it passes without one.
        column: Name of the audio column. Its values have `bytes` or `path`, as in the format `arrow` and with
            `Audio(decode=False)`; or `array` and `sampling_rate`; or they are decoders, as in newer versions of
            `datasets`.
        profile: Name of the verdict profile; None for the default one.
        channels: `split` to inspect each channel separately, `mix` for their mean.

    Returns:
        For a table, the table with the columns `qc_status` to `qc_error`, which `docs/datasets.md` describes; it
        replaces columns of these names. Otherwise the new columns, each of the length of the batch.

    Raises:
        ProtocolError: There is no such column or profile, or the function was called without `batched=True`.
        StartupError: The model cannot be loaded.
    """
    is_table = hasattr(batch, "column_names")
    names = batch.column_names if is_table else list(batch)
    if column not in names:
        raise ProtocolError(
            f"expected an audio column {column!r}, got the columns {', '.join(names)}: "
            "pass fn_kwargs={'column': …} to map"
        )
    values = batch[column]
    if isinstance(values, Mapping) or not (is_table or isinstance(values, Sequence | np.ndarray)):
        raise ProtocolError(
            f"expected a batch of examples, got one of type {type(values).__name__} in {column!r}: "
            "call map with batched=True"
        )
    detector = default_detector()
    name, _ = detector.profile(profile)
    if is_table:  # one value at a time: the sound of a whole batch may not fit into memory
        values = (value.as_py() for value in values)
    rows = [_row(detector, value, name, channels) for value in values]
    found = {key: [row[key] for row in rows] for key in COLUMNS}
    return _with_columns(batch, found) if is_table else found


def _with_columns(table: pa.Table, found: Mapping[str, list[Any]]) -> pa.Table:
    """Add typed columns: a type inferred from a batch without values would not fit the next one."""
    import pyarrow as pa

    table = table.drop_columns([name for name in found if name in table.column_names])
    metadata = table.schema.metadata
    for name, values in found.items():
        table = table.append_column(name, pa.array(values, _arrow_type(COLUMNS[name])))
    # The metadata of `datasets` lists the features of the old columns only, and it prefers them to the types.
    described = json.loads((metadata or {}).get(b"huggingface", b"{}"))
    if "features" in described.get("info", {}):
        described["info"]["features"] |= features().to_dict()
        table = table.replace_schema_metadata({**metadata, b"huggingface": json.dumps(described).encode()})
    return table


def _arrow_type(kind: Kind) -> pa.DataType:
    import pyarrow as pa

    if kind == "events":
        return pa.list_(pa.struct({name: _arrow_type(field) for name, field in EVENT_FIELDS.items()}))
    if kind == "texts":
        return pa.list_(pa.string())
    return {"text": pa.string(), "number": pa.float64(), "index": pa.int32()}[kind]


def features(given: Mapping[str, Any] | None = None) -> Features:
    """Return the types of a data set with the new columns, for the argument `features` of `map`.

    Outside the format `arrow`, `datasets` infers types from the first batch, and a column that is empty there cannot
    have values later.

    Args:
        given: The features of the data set; None for the new columns alone.
    """
    from datasets import Features

    return Features({**(given or {}), **{name: _feature(kind) for name, kind in COLUMNS.items()}})


def _feature(kind: Kind) -> Any:
    from datasets import List, Value

    if kind == "events":
        return List({name: _feature(field) for name, field in EVENT_FIELDS.items()})
    if kind == "texts":
        return List(Value("string"))
    return Value({"text": "string", "number": "float64", "index": "int32"}[kind])


def _row(detector: Detector, value: Any, profile: str, channels: Channels) -> dict[str, Any]:
    try:
        found = _inspect_one(detector, value, profile, channels)
    except (StartupError, ProtocolError):  # would be the same for every recording
        raise
    except (SpeechQCError, OSError) as error:
        return error_columns(str(error))
    return columns_of(found)


def _inspect_one(detector: Detector, value: Any, profile: str, channels: Channels) -> Inspection:
    def inspected(source: Any, rate: Any = None) -> Inspection:
        return detector.inspect(source, sample_rate=rate, profile=profile, channels=channels, frames=False)

    if hasattr(value, "get_all_samples"):  # a decoder of datasets 4 and later
        try:
            samples = value.get_all_samples()
        except (RuntimeError, ValueError) as error:  # what torchcodec raises for a damaged recording
            raise InvalidAudio(f"expected a recording that torchcodec can decode: {error}") from error
        return inspected(np.asarray(samples.data).T, samples.sample_rate)
    if not isinstance(value, Mapping):
        raise InvalidAudio(
            f"expected the value of an audio column, got {type(value).__name__}: an example without audio, or a column "
            "of another kind (see cast_column and datasets.Audio)"
        )
    if value.get("bytes") is not None:
        return inspected(value["bytes"])
    if value.get("array") is not None:
        samples = np.asarray(value["array"])
        # datasets has (n,) or (channels, n); detector takes (n, channels)
        return inspected(samples.T if samples.ndim == 2 else samples, value["sampling_rate"])
    if value.get("path") is not None:
        return inspected(value["path"])
    raise InvalidAudio("expected audio with bytes, a path or an array, got none of them: the example has no audio")
