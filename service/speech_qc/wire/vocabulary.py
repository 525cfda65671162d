"""The closed sets of values in requests, responses and options; every other module imports them from here."""

from __future__ import annotations

from typing import Literal

Encoding = Literal["linear16", "mulaw", "alaw", "float32"]
"""How the samples of a live stream are encoded."""

RawEncoding = Literal["linear16", "mulaw", "alaw", "float32", "gsm", "vox", "g722", "g726"]
"""How the samples of headerless audio are encoded in a file."""

AudioWarningCode = Literal[
    "header_field_ignored",
    "samples_missing",
    "samples_damaged",
    "bytes_not_read",
    "joined",
    "tracks_not_read",
    "layout_changed",
    "packets_not_read",
    "streams_not_read",
    "clock_reset",
    "leg_cut",
]
"""Problems with a recording that was inspected all the same."""

ChannelMode = Literal["split", "mix"]
"""Whether to inspect each channel separately, or the mean of all."""

AnswerFormat = Literal["json", "csv", "audacity", "textgrid", "rttm", "webvtt"]
"""Response formats of `POST /v1/inspect`: JSON, or a label track for other programs."""

Severity = Literal["minor", "moderate", "severe"]
"""Severity of an event."""

LossKind = Literal["zeros", "repeated", "faded"]
"""What replaced lost samples: a constant such as zeros, a repetition, or a repetition that fades."""

GapKind = Literal["loss", "dtx", "hold"]
"""Why audio was not received: lost; not sent because the source was silent; the sender paused."""

Vendor = Literal[
    "twilio",
    "signalwire",
    "telnyx",
    "plivo",
    "exotel",
    "asterisk",
    "audiosocket",
    "freeswitch",
    "jambonz",
    "vonage",
    "genesys",
    "azure",
]
"""What sent the audio of a phone call; `jambonz` is also FreeSWITCH's mod_audio_fork, `freeswitch` mod_audio_stream."""

Position = Literal["samples", "arrival"]
"""Where the audio of a live stream belongs in time: after what was sent before, or where it arrives."""

ToneKind = Literal["hum", "whistle", "dial", "busy", "ringback", "sit", "fax_cng", "fax_ced", "dtmf", "beep", "other"]
"""Kind of a tone: mains hum, call progress and fax tones (`sit`: special information tones), keys, or other tones."""

Phase = Literal["begin", "end"]
"""Whether a live event has begun or ended."""

Status = Literal["pass", "warn", "fail", "unknown"]
"""Status of a verdict."""

WarningCode = Literal[
    "too_fast",
    "too_slow",
    "silence",
    "clipping",
    "rate_mismatch",
    "encoding_mismatch",
    "incomplete_sample",
    "ignored_messages",
]
"""Problems with a live stream's audio, about which its sender gets a warning."""

BandReference = Literal["floor", "itself"]
"""What the spectrum of an event was compared with: the noise floor around it, or its own strongest band."""

ReadyState = Literal["ready", "starting", "draining", "dead"]
"""The status in `GET /health/ready`."""

ReloadOutcome = Literal["replaced", "unchanged"]
"""Result of a successful reload of the model."""

WorkerReloadOutcome = Literal["replaced", "unchanged", "starting", "failed", "kept"]
"""Result of a reload in one of several processes."""

Device = Literal["auto", "cpu", "cuda"]
"""Where inference runs."""

LogLevel = Literal["debug", "info", "warning", "error"]
"""Minimum level that a server logs."""

STREAM_VENDOR = "stream"
"""Stands for the vendor of a leg that a client of `/v1/stream` sends."""

CallState = Literal["live", "ended"]
"""Whether a call goes on."""

ResultsScope = Literal["server", "shared"]
"""Whose calls a response lists: those of the server that responds, or those of all servers that share its database."""

InteractionKind = Literal["one_way_audio", "dead_air", "talk_over", "echo"]
"""What can be wrong between the legs of a call."""

Right = Literal["send", "watch", "admin"]
"""What an API key may do: send audio, read calls and events, or all of this and administer the server."""

HEALTH_PATHS = frozenset({"/health/live", "/health/ready"})
METRICS_PATHS = frozenset({"/metrics"})
PROBE_PATHS = HEALTH_PATHS | METRICS_PATHS
"""Paths that load balancers, supervisors and Prometheus request every few seconds."""
