"""How much audio the chunks of a live stream take, when its scores are due, and the latency that follows from it."""

from __future__ import annotations

from collections.abc import Sequence

from speech_qc.contract import ModelContract
from speech_qc.engine import Lane
from speech_qc.pipeline.factory import FLUSH_LANE, LIVE_LANE


class LiveLanes:
    """Chooses the lane of one stream's next chunk.

    The remainder of the first message is scored in small chunks. After that, messages as long as a chunk complete one
    chunk each. Otherwise every chunk would end slightly after a message boundary, and wait for the whole next message.

    Args:
        contract: Contract of the model.
        lanes: Lanes of the engine.
        emit_ms: See `use`.
    """

    def __init__(self, contract: ModelContract, lanes: Sequence[Lane], emit_ms: int) -> None:
        by_name = {lane.name: lane for lane in lanes}
        self.live, self._flush = by_name[LIVE_LANE], by_name[FLUSH_LANE]
        self._contract = contract
        self.current = self.live
        """Of the chunks in the engine."""
        self._is_aligned = False  # chunks end at message boundaries
        self._hops = 0  # scored since the last message, including those of the look-ahead
        self.use(emit_ms)

    def use(self, emit_ms: int) -> None:
        """Send scores every so many milliseconds; only if large chunks would delay them, all chunks are small."""
        hop_s = self._contract.features.frame_hop_s / self._contract.features.hops_per_frame
        self._emit_hops = round(emit_ms / 1000 / hop_s)
        self._is_small = self._emit_hops < self.live.hops

    def next(self, hops: int, *, flush: bool) -> Lane | None:
        """Return the lane of the next chunk; None if there is too little audio.

        Args:
            hops: Hops that are there.
            flush: Score whatever completes a frame.
        """
        if hops >= self.live.hops:
            return self.live
        if (self._is_small or flush or not self._is_aligned) and hops >= self._flush.hops:
            return self._flush
        if self.current is self._flush and not self._is_aligned:
            self._is_aligned = True
            self.restart()
        return None

    @property
    def following_hops(self) -> int:
        """Hops without which no chunk follows, unless everything is flushed."""
        return self._flush.hops if self._is_small or not self._is_aligned else self.live.hops

    def is_due(self) -> bool:
        """Note that a chunk was scored; return whether scores must be sent now."""
        self._hops += self.current.hops
        if self._hops < self._emit_hops:
            return False
        self._hops %= self._emit_hops
        return True

    def restart(self) -> None:
        """Begin the time between two messages now."""
        self._hops = 0

    def latency_s(self, resampler_s: float) -> float:
        """Longest time from a frame's last sample until its scores are sent, without computation and the network.

        It is the sum of the model's look-ahead and window, the delay of the resampler, and the time that the first
        frame of a message waits for the last: scores are sent when the finished chunks fill the emit interval.
        """
        spec = self._contract.features
        chunk = self._flush.hops if self._is_small else self.live.hops
        interval_s = -(-self._emit_hops // chunk) * chunk * spec.frame_hop_s / spec.hops_per_frame
        return round(self._contract.latency_s + resampler_s + interval_s - spec.frame_hop_s, 4)
