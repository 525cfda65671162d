"""speech-qc: finds noise and interference in speech, recorded or live, every 20 ms.

    import speech_qc

    result = speech_qc.inspect("call.wav")
    result.verdict.status, result.channels[0].events, result.channels[0].frames["noise"]

The names in `__all__` are public and documented in `docs/python.md`; everything else may change.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from speech_qc import errors as errors
from speech_qc.errors import SpeechQCError as SpeechQCError
from speech_qc.version import __version__ as __version__

# Published builds of ONNX Runtime report machine and models to their vendor, unless this is set before they load.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# A library stays silent until the program that uses it configures logging.
logging.getLogger(__name__).addHandler(logging.NullHandler())

if TYPE_CHECKING:
    from speech_qc.embedded.detector import inspect as inspect
    from speech_qc.embedded.stream import Stream as Stream
    from speech_qc.results import Channel as Channel
    from speech_qc.results import Inspection as Inspection
    from speech_qc.results import StreamResult as StreamResult
    from speech_qc.results import StreamUpdate as StreamUpdate

_HOMES = {
    "Channel": "results",
    "Inspection": "results",
    "Stream": "embedded.stream",
    "StreamResult": "results",
    "StreamUpdate": "results",
    "inspect": "embedded.detector",
}
"""Imported when first used, so that `speech-qc --help` and small clients do not wait for the model's libraries."""

__all__ = [
    "Channel",
    "Inspection",
    "SpeechQCError",
    "Stream",
    "StreamResult",
    "StreamUpdate",
    "__version__",
    "errors",
    "inspect",
]


def __getattr__(name: str) -> Any:
    """Import a public name."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
