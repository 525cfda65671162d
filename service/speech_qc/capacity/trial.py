"""One trial: runs a number of paced streams against a server, from separate client processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal
from urllib.parse import urlencode

import numpy as np
import soxr
from numpy.typing import NDArray

from speech_qc.audio.g711 import encode_mulaw
from speech_qc.capacity.host import Host, HostError
from speech_qc.capacity.load import RATE_HZ, Outcome, Plan
from speech_qc.capacity.search import QUANTILES, Trial, percentile

STREAMS_PER_PROCESS = 400
MAX_PROCESSES = 2
"""More client processes would take cores from a server on the same machine."""
RAMP_PER_S = 150
"""Streams opened per second."""
SETTLE_S = 2.0
CLOSE_S = 6.0
"""Longest wait for the summaries; a server that needs longer has failed the trial anyway."""
AUDIO_S = 12
FRAME_S = 0.02

LoadEncoding = Literal["linear16", "mulaw"]


@dataclass(frozen=True, slots=True)
class Conditions:
    """Conditions that all trials of a search share.

    Args:
        message_ms: Audio in one message.
        emit_ms: Audio between two `scores` messages.
        measure_s: Time during which messages are timed.
        encoding: Encoding of the audio: `linear16` or `mulaw`.
        rate_hz: Its sample rate.
    """

    message_ms: int = 100
    emit_ms: int = 100
    measure_s: float = 10.0
    encoding: LoadEncoding = "linear16"
    rate_hz: int = RATE_HZ

    @property
    def message_bytes(self) -> int:
        """Bytes of audio in one message."""
        return self.rate_hz * self.message_ms // 1000 * (2 if self.encoding == "linear16" else 1)

    def encode(self, audio: bytes) -> bytes:
        """Convert 16-bit PCM at 16 kHz."""
        if (self.encoding, self.rate_hz) == ("linear16", RATE_HZ):
            return audio
        samples = np.frombuffer(audio, "<i2").astype(np.float32) / 32768.0
        samples = soxr.resample(samples, RATE_HZ, self.rate_hz)
        if self.encoding == "mulaw":
            return bytes(encode_mulaw(samples).tobytes())
        return bytes(np.clip(np.rint(samples * 32768.0), -32768, 32767).astype("<i2").tobytes())

    def seconds(self, streams: int) -> float:
        """Return the usual duration of a trial, without the worst case of closing the streams."""
        return ramp_s(streams) + SETTLE_S + self.measure_s + 3.0


def ramp_s(streams: int) -> float:
    """Return the time within which the streams of a trial start."""
    return max(1.0, streams / RAMP_PER_S)


def load_audio(seed: int = 0) -> bytes:
    """Return the audio that clients send, 16-bit PCM: noise bursts at the rate of syllables, with hum in between.

    The cost of a score does not depend on the sound, but events do, so the audio must cause some.
    """
    random = np.random.default_rng(seed)
    count = AUDIO_S * RATE_HZ
    time_s = np.arange(count) / RATE_HZ
    noise = np.convolve(random.normal(0, 1, count), np.ones(8) / 8, "same")
    syllables = np.maximum(0, np.sin(2 * np.pi * 4 * time_s)) * (time_s % 6 < 4)
    hum = 0.1 * np.sin(2 * np.pi * 400 * time_s) * (time_s % 6 >= 4)
    signal = 0.4 * noise * syllables + hum + 0.002 * random.normal(0, 1, count)
    return bytes(np.clip(np.rint(signal * 32767), -32768, 32767).astype("<i2").tobytes())


@dataclass(frozen=True, slots=True)
class Target:
    """The server under test, and the timing that its model declares.

    Args:
        host: The server.
        idle_kib: Its memory before the first stream; None if unknown.
        frame_samples: Samples of an output frame, at 16 kHz.
        context_samples: Samples after a frame's end that its scores depend on.
    """

    host: Host
    idle_kib: float | None
    frame_samples: int
    context_samples: int

    @classmethod
    def of(cls, host: Host) -> Target:
        """Query a server for its model.

        Raises:
            HostError: The server does not answer.
        """
        model = host.model()
        return cls(
            host,
            host.memory_kib(),
            round(float(model["frame_hop_s"]) * RATE_HZ),
            round(float(model["latency_s"]) * RATE_HZ),
        )


def run_trial(
    target: Target, streams: int, conditions: Conditions, *, seed: int = 1, audio: bytes | None = None
) -> Trial:
    """Run a number of streams; block until they have ended.

    Args:
        target: The server.
        streams: Number of streams.
        conditions: Messages and timing.
        seed: Determines when the streams start.
        audio: What they send, 16-bit PCM at 16 kHz; None for `load_audio()`.

    Raises:
        HostError: A client process failed.
    """
    count = min(MAX_PROCESSES, -(-streams // STREAMS_PER_PROCESS))
    shares = [streams // count + (index < streams % count) for index in range(count)]
    ramp, host = ramp_s(streams), target.host
    query = urlencode({
        "emit_ms": conditions.emit_ms,
        "encoding": conditions.encoding,
        "sample_rate": conditions.rate_hz,
        "session_name": "capacity",
    })  # fmt: skip
    audio = conditions.encode(load_audio() if audio is None else audio)
    loads = []
    try:
        for index, share in enumerate(shares):
            plan = Plan(
                f"{host.url}/v1/stream?{query}", share, conditions.message_ms, conditions.message_bytes,
                target.frame_samples, target.context_samples, ramp, SETTLE_S, conditions.measure_s, CLOSE_S,
                seed + index, host.api_key,
            )  # fmt: skip
            loads.append(_start(plan, audio))
        for load in loads:
            if load.stdout is None or load.stdout.readline() != b"begun\n":
                raise HostError("a client process did not start: see its errors above")
        time.sleep(ramp + SETTLE_S)
        before, cpu_before, clock = target.host.steps(), target.host.cpu_s(), time.monotonic()
        time.sleep(conditions.measure_s)
        elapsed_s = time.monotonic() - clock
        memory, cpu_after, after = target.host.memory_kib(), target.host.cpu_s(), target.host.steps()
        results = [_result(load) for load in loads]
    finally:
        for load in loads:
            if load.poll() is None:
                load.kill()
            load.communicate()
    batch = None
    if before is not None and after is not None and after.steps > before.steps:
        batch = (after.chunks - before.chunks) / (after.steps - before.steps)
    return _trial(
        streams,
        results,
        measure_s=conditions.measure_s,
        server_cpu=None if cpu_before is None or cpu_after is None else (cpu_after - cpu_before) / elapsed_s,
        memory_kib=None if memory is None or target.idle_kib is None else (memory - target.idle_kib) / streams,
        batch=batch,
    )


Float32 = NDArray[np.float32]


def _trial(streams: int, results: Sequence[tuple[Outcome, list[Float32]]], *, measure_s: float, **seen: Any) -> Trial:
    """Combine the outcomes of all client processes."""
    lags, answers, late = (np.sort(np.concatenate([timed[i] for _, timed in results])) * 1000 for i in range(3))
    outcomes = [outcome for outcome, _ in results]
    return Trial(
        streams=streams,
        lag_ms=tuple(percentile(lags, share) for share in QUANTILES),  # type: ignore[arg-type]
        answer_p99_ms=percentile(answers, 0.99),  # type: ignore[arg-type]
        late_p99_ms=percentile(late, 0.99),  # type: ignore[arg-type]
        scores=len(lags),
        lost_frames=sum(outcome.lost_frames for outcome in outcomes),
        failed=sum(outcome.failed for outcome in outcomes),
        reason=next((outcome.reason for outcome in outcomes if outcome.reason), None),
        client_cpu=sum(outcome.cpu_s for outcome in outcomes) / measure_s,
        **seen,
    )


def _start(plan: Plan, audio: bytes) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "speech_qc.capacity.load"]
    load = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    if load.stdin is None:
        raise HostError("a client process has no standard input")
    try:
        load.stdin.write(json.dumps(asdict(plan)).encode() + b"\n" + audio)
        load.stdin.close()
    except BrokenPipeError as error:
        raise HostError("a client process did not start: see its errors above") from error
    load.stdin = None
    return load


def _result(load: subprocess.Popen[bytes]) -> tuple[Outcome, list[Float32]]:
    """Wait for a client process and read its outcome."""
    if load.stdout is None:
        raise HostError("a client process has no standard output")
    head, rest = load.stdout.readline(), load.stdout.read()
    if load.wait() or not head:
        raise HostError(f"a client process failed with exit code {load.returncode}: see its errors above")
    fields = json.loads(head)
    outcome = Outcome(**fields | {"timed": tuple(fields["timed"])})
    values = np.frombuffer(rest, np.float32)
    borders = np.cumsum(outcome.timed)[:-1]
    return outcome, [np.asarray(part, np.float32) for part in np.split(values, borders)]
