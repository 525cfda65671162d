"""Columns of an archive's results: one row per channel; a recording that cannot be inspected has one row with `error`.

Rows with the same `uri, offset_s, length_s, asked_channel` are versions of one item. All rows of a version have the
same `inspected_at`, and are in the same file.
"""

from __future__ import annotations

import pyarrow as pa

FLOAT, TEXT = pa.float64(), pa.string()
UNKNOWN = pa.map_(TEXT, TEXT)
"""By name of a value that is null, the reason."""

REASON = pa.struct({"code": TEXT, "message": TEXT, "label": TEXT, "value": FLOAT, "limit": FLOAT})
WARNING = pa.struct({"code": TEXT, "message": TEXT})
ERROR = pa.struct({"code": TEXT, "message": TEXT})

SUMMARY = pa.struct({
    "quality": FLOAT,
    "speech_ratio": FLOAT,
    "noise_ratio": FLOAT,
    "interference_ratio": FLOAT,
    "snr_db": FLOAT,
    "sig": FLOAT,
    "bak": FLOAT,
    "ovrl": FLOAT,
    "reverberation": FLOAT,
    "snr_by_kind_db": pa.map_(TEXT, FLOAT),
    "lost_ratio": FLOAT,
    "losses_per_min": FLOAT,
    "longest_loss_ms": FLOAT,
    "unknown": UNKNOWN,
})  # fmt: skip

LEVELS = pa.struct({
    "rms_dbfs": FLOAT,
    "peak_dbfs": FLOAT,
    "clipped_ratio": FLOAT,
    "dc_offset": FLOAT,
    "digital_silence_ratio": FLOAT,
    "bandwidth_hz": FLOAT,
    "loudness_lufs": FLOAT,
    "loudness_max_lufs": FLOAT,
    "loudness_range_lu": FLOAT,
    "true_peak_dbtp": FLOAT,
    "noise_floor_dbfs": FLOAT,
    "high_band_dbfs": FLOAT,
    "high_tone_hz": FLOAT,
    "cancellation_db": FLOAT,
    "unknown": UNKNOWN,
})  # fmt: skip

DETAIL = pa.struct({"kind": TEXT, "gap_ms": FLOAT, "frequencies_hz": pa.list_(FLOAT), "digits": TEXT})
"""Of a dropout: `kind`, `gap_ms`; of a tone: `kind`, `frequencies_hz`, `digits`."""

EVENT = pa.struct({
    "event_id": pa.int32(),
    "label": TEXT,
    "family": TEXT,
    "onset_s": FLOAT,
    "offset_s": FLOAT,
    "score_max": FLOAT,
    "score_mean": FLOAT,
    "severity": TEXT,
    "detail": DETAIL,
})  # fmt: skip

STEREO = pa.struct({"correlation": FLOAT, "imbalance_db": FLOAT, "inverted": pa.bool_(), "unknown": UNKNOWN})

KEY = ("uri", "offset_s", "length_s", "channel")
ITEM_KEY = ("uri", "offset_s", "length_s", "asked_channel")
VERSION = ("etag", "model_sha256", "profile")
"""An item is inspected again if one of these has changed."""

ROWS = pa.schema({
    "uri": TEXT,
    "offset_s": FLOAT,  # null: from the start
    "length_s": FLOAT,  # null: to the end
    "asked_channel": pa.int32(),  # the channel that the source named; null: every channel
    "etag": TEXT,  # of a file: size and time of modification (ns), as in `64044-1764457100123456789`
    "content_sha256": TEXT,  # of the whole recording, also where the row is about a part
    "manifest": TEXT,  # the source's own columns as a JSON object; null: none
    "channel": pa.int32(),  # null only in rows with `error` whose item asked for every channel
    "channels": pa.int32(),  # of the recording
    "duration_s": FLOAT,
    "sample_rate_hz": pa.int32(),
    "encoding": TEXT,
    "model": TEXT,  # name and version, as in `speech-qc-base 0.5.1`
    "model_sha256": TEXT,
    "profile": TEXT,
    "status": TEXT,  # pass, warn, fail, unknown; null with `error`
    "reasons": pa.list_(REASON),
    "summary": SUMMARY,
    "levels": LEVELS,
    "events": pa.list_(EVENT),
    "events_dropped": pa.int32(),  # events above the limit, counted but not listed
    "stereo": STEREO,  # null unless the recording has two channels
    "warnings": pa.list_(WARNING),
    "error": ERROR,
    "frames": pa.map_(TEXT, pa.list_(pa.float32())),  # scores by label, one per 20 ms; null without `--frames`
    "inspected_at": pa.timestamp("us", tz="UTC"),
})  # fmt: skip

ITEMS = pa.schema({
    "uri": TEXT,
    "offset_s": FLOAT,
    "length_s": FLOAT,
    "channel": pa.int32(),
    "manifest": TEXT,  # a JSON object; null: none
    "etag": TEXT,
    "opener": TEXT,  # import path of the opener; null: `uri` is a file
    "problem": TEXT,  # why it cannot be inspected; null: that is to be found out
})  # fmt: skip
"""What an engine passes to `inspect_batch`, one row per item."""
