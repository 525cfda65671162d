"""Batching engine: many sessions, shared inference steps, one device thread.

Callers use only `Engine`, which runs an `OnnxRunner` or an `EchoRunner`.
"""

from speech_qc.engine.echo import EchoRunner, echo_contract
from speech_qc.engine.engine import Engine
from speech_qc.engine.entry import GroupResult, Member, Reply, StepResult
from speech_qc.engine.protocols import (
    DropReason,
    EngineObserver,
    EngineStatus,
    FrontEnd,
    Lane,
    Model,
    ReadOut,
    RefusalReason,
    Runner,
)
from speech_qc.engine.runner import OnnxRunner
from speech_qc.engine.step import Stepper

__all__ = [
    "DropReason",
    "EchoRunner",
    "Engine",
    "EngineObserver",
    "EngineStatus",
    "FrontEnd",
    "GroupResult",
    "Lane",
    "Member",
    "Model",
    "OnnxRunner",
    "ReadOut",
    "RefusalReason",
    "Reply",
    "Runner",
    "StepResult",
    "Stepper",
    "echo_contract",
]
