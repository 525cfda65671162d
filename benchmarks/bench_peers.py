"""Compare the speed of this detector with Silero VAD and DNSMOS P.835 on the same audio and core.

    pip install --no-deps --target PEERS silero-vad speechmos     # only their model files are used; nothing is imported
    python benchmarks/bench_peers.py --peers PEERS [--repeats 5] [--record]

Each variant does the complete work per stream: features and model for this detector; 32 ms chunks with 4 ms of context
for Silero VAD, as in its own code; windows of 9.01 s for DNSMOS, with its hop of 1 s and without overlap. Batched means
64 streams per step (this detector: chunks of 100 ms). The variants alternate. Figures are medians of CPU seconds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import speech_qc  # noqa: F401  # first, because it disables ONNX Runtime's telemetry

# isort: split
import numpy as np
import onnxruntime
import soundfile
from recording import ROOT, machine, markdown, record

from speech_qc.audio.features import FrontEnd
from speech_qc.pipeline.factory import make_runner
from speech_qc.settings import Settings

RATE_HZ = 16_000
STREAMS = 64
SILERO_CHUNK, SILERO_CONTEXT = 512, 64
DNSMOS_WINDOW = 144_160


def open_session(path: Path) -> Any:
    """Open a session with one thread, as this service does for its own model."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def ours(settings: Settings, hops: int, batch: int) -> Callable[[np.ndarray], None]:
    """Return this detector, including features."""
    runner = make_runner(settings)
    front_end = FrontEnd(runner.contract.features)

    def run(streams: np.ndarray) -> None:
        state = np.zeros((batch, runner.contract.state_size), np.float32)
        step = hops * 160
        for start in range(0, streams.shape[1] - step - 240, step):
            _, state = runner.run(front_end(streams[:batch, start : start + step + 240]), state)

    return run


def silero(session: Any, batch: int) -> Callable[[np.ndarray], None]:
    """Return Silero VAD, with 512 samples per step and 64 of context."""
    rate = np.array(RATE_HZ, np.int64)

    def run(streams: np.ndarray) -> None:
        state = np.zeros((2, batch, 128), np.float32)
        context = np.zeros((batch, SILERO_CONTEXT), np.float32)
        for start in range(0, streams.shape[1] - SILERO_CHUNK + 1, SILERO_CHUNK):
            chunk = streams[:batch, start : start + SILERO_CHUNK]
            feeds = {"input": np.concatenate([context, chunk], axis=1), "state": state, "sr": rate}
            _, state = session.run(None, feeds)
            context = chunk[:, -SILERO_CONTEXT:]

    return run


def dnsmos(session: Any, hop_samples: int) -> Callable[[np.ndarray], None]:
    """Return DNSMOS P.835 on one stream, window by window."""

    def run(streams: np.ndarray) -> None:
        for start in range(0, streams.shape[1] - DNSMOS_WINDOW + 1, hop_samples):
            session.run(None, {"input_1": streams[:1, start : start + DNSMOS_WINDOW]})

    return run


def main() -> None:
    """Run all variants alternately and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True, help="folder that pip installed the two packages into")
    parser.add_argument("--audio", type=Path, default=ROOT / "examples" / "sample.wav", help="16 kHz mono; repeated")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each stream")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--record", action="store_true", help="append the table to benchmarks/RESULTS.md")
    options = parser.parse_args()
    samples, rate = soundfile.read(options.audio, dtype="float32")
    if rate != RATE_HZ or samples.ndim != 1:
        raise SystemExit(f"expected {RATE_HZ} Hz mono, got {rate} Hz with shape {samples.shape}: {options.audio}")
    length = int(options.seconds * RATE_HZ)
    looped = np.resize(samples, length + STREAMS * 997)
    streams = np.stack([looped[i * 997 : i * 997 + length] for i in range(STREAMS)])  # each has a different start

    settings = Settings(device="cpu")
    vad = open_session(options.peers / "silero_vad/data/silero_vad.onnx")
    mos = open_session(options.peers / "speechmos/dnsmos_models/sig_bak_ovr.onnx")
    ways: dict[str, tuple[Callable[[np.ndarray], None], int]] = {
        "speech-qc, chunks of 4 s, alone": (ours(settings, 400, 1), 1),
        "speech-qc, chunks of 100 ms, alone": (ours(settings, 10, 1), 1),
        f"speech-qc, chunks of 100 ms, {STREAMS} streams": (ours(settings, 10, STREAMS), STREAMS),
        "Silero VAD, alone": (silero(vad, 1), 1),
        f"Silero VAD, {STREAMS} streams": (silero(vad, STREAMS), STREAMS),
        "DNSMOS P.835, hop 1 s": (dnsmos(mos, RATE_HZ), 1),
        "DNSMOS P.835, no overlap": (dnsmos(mos, DNSMOS_WINDOW), 1),
    }
    about = machine()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(options.repeats + 1):
        for name, (run, _) in ways.items():
            before = time.process_time()
            run(streams)
            if turn:  # the first repetition is warm-up
                taken[name].append(time.process_time() - before)
    speed = {name: ways[name][1] * options.seconds / statistics.median(cpu) for name, cpu in taken.items()}
    own = speed[f"speech-qc, chunks of 100 ms, {STREAMS} streams"]
    headings = ("variant", "x real time on one core", "speed-up of speech-qc, batched")
    table = markdown(headings, [(name, f"{value:.0f}", f"{own / value:.1f}") for name, value in speed.items()])
    print(table)
    if options.record:
        record("peers", about, table, {str(options.peers): "PEERS"})


if __name__ == "__main__":
    main()
