"""The parts of one running application that requests use, in one object instead of globals."""

from __future__ import annotations

from dataclasses import dataclass

from speech_qc.admission.memory import MemoryBudget
from speech_qc.admission.quotas import Quotas
from speech_qc.admission.streams import StreamRegistry
from speech_qc.admission.uploads import UploadPlaces
from speech_qc.audio.packet_decoders import PacketDecoders
from speech_qc.call_store import Results
from speech_qc.calls.registry import Calls
from speech_qc.engine import Engine, Model
from speech_qc.model.reload import Generations
from speech_qc.scoring import Profiles
from speech_qc.security.api_keys import KeyRing
from speech_qc.security.call_signatures import CallSignatures
from speech_qc.settings import Settings
from speech_qc.shutdown import DrainDeadline
from speech_qc.telemetry.metrics import Metrics
from speech_qc.telemetry.tracing import Tracing
from speech_qc.webhooks import WebhookSender
from speech_qc.wire.schemas import ModelInfo
from speech_qc.workers.member import Member


@dataclass(slots=True)
class AppState:
    """The parts of one running server."""

    settings: Settings
    profiles: Profiles
    metrics: Metrics
    models: Generations
    streams: StreamRegistry
    key_ring: KeyRing | None
    """None if no key is needed."""
    quotas: Quotas
    uploads: UploadPlaces
    memory: MemoryBudget
    tracing: Tracing
    drain: DrainDeadline
    results: Results
    """Takes the events of calls, and has what was kept of them."""
    webhooks: WebhookSender
    signatures: CallSignatures
    """Checks the signatures of phone systems."""
    calls: Calls
    """The calls that legs join."""
    packets: PacketDecoders
    """Decodes packets of phone systems."""
    member: Member | None = None
    """This process among several workers; None if it is the only one."""

    @property
    def model(self) -> Model:
        """The model in use; to read several of its properties consistently, take `models.current` once."""
        return self.models.current.model

    @property
    def engine(self) -> Engine:
        """The engine that runs the model in use."""
        return self.models.current.engine

    @property
    def identity(self) -> ModelInfo:
        """Identity of the model in use."""
        return self.models.current.identity
