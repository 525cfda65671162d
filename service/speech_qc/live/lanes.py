"""Which of the engine's lanes score live audio, and the latency that follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from speech_qc.contract import ModelContract
from speech_qc.engine import Lane
from speech_qc.pipeline.factory import FLUSH_LANE, LIVE_LANE
from speech_qc.pipeline.session import Session


@dataclass(frozen=True, slots=True)
class LiveLanes:
    """The engine's two lanes for live audio."""

    live: Lane
    flush: Lane

    @classmethod
    def of(cls, lanes: Sequence[Lane]) -> LiveLanes:
        """Select the lanes by name."""
        by_name = {lane.name: lane for lane in lanes}
        return cls(by_name[LIVE_LANE], by_name[FLUSH_LANE])

    def chunk_hops(self, emit_hops: int) -> int:
        """Hops per chunk for an emit interval: small chunks only if large ones would delay it."""
        return self.live.hops if emit_hops >= self.live.hops else self.flush.hops


def latency_s(contract: ModelContract, session: Session, lanes: LiveLanes, emit_ms: int) -> float:
    """Longest time from a frame's last sample until its scores are sent, not counting computation and the network.

    It is the sum of the model's look-ahead and window, the delay of the resampler, and the time that the first frame of
    a message waits for the last: scores are sent when the finished chunks fill the emit interval.
    """
    hop_s = contract.features.frame_hop_s / contract.features.hops_per_frame
    emit_hops = round(emit_ms / 1000 / hop_s)
    chunk = lanes.chunk_hops(emit_hops)
    interval_s = -(-emit_hops // chunk) * chunk * hop_s
    waits_s = interval_s - contract.features.frame_hop_s
    return round(contract.latency_s + session.resampler_latency_s + waits_s, 4)
