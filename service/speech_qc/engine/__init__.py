"""Batching engine: many sessions, shared inference steps, one device thread.

`Engine` is the only door callers use; `OnnxRunner` or `EchoRunner` goes into it.
"""

from service.engine.echo import EchoRunner, echo_contract
from service.engine.engine import Engine, EngineStatus
from service.engine.entry import StepResult
from service.engine.protocols import (
    DropReason,
    EngineObserver,
    FrontEnd,
    Lane,
    Model,
    ReadOut,
    RefusalReason,
    Runner,
)
from service.engine.runner import OnnxRunner
from service.engine.step import Stepper

__all__ = [
    "DropReason",
    "EchoRunner",
    "Engine",
    "EngineObserver",
    "EngineStatus",
    "FrontEnd",
    "Lane",
    "Model",
    "OnnxRunner",
    "ReadOut",
    "RefusalReason",
    "Runner",
    "StepResult",
    "Stepper",
    "echo_contract",
]
