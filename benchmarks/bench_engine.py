"""Measure the engine's speed without sockets, and how much scores depend on the shape of a step.

    python benchmarks/bench_engine.py [--batches 1 4 16 64 256] [--seconds 1] [--model MODEL.onnx] [--record]

For every batch size and lane, alternating: the bare model in ONNX Runtime, features and model in one engine step, and
the same step padded to the next power of two (for sizes in between). `x real time` is seconds of audio per CPU second
of the process. Then the same audio is scored in batches of different sizes and in chunks of different lengths, and the
largest score differences are printed. `--record` appends to `benchmarks/RESULTS.md`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from bench_inspect import RATE_HZ
from numpy.typing import NDArray
from recording import ROOT, machine, markdown, record

from speech_qc.audio.features import FrontEnd
from speech_qc.engine import Lane, OnnxRunner
from speech_qc.engine.step import Stepper, batch_buckets, chunk_samples
from speech_qc.pipeline.chunk_reader import ChunkReader
from speech_qc.pipeline.factory import make_lanes, make_runner
from speech_qc.settings import Settings

TURNS = 3
DIFFERENCE_CHUNKS = 40
"""Number of chunks of the live lane: 4 s of audio."""


def sounds(count: int, samples: int) -> NDArray[np.float32]:
    """Return streams of the sample recording, each from a different start, float32 (count, samples)."""
    audio, _ = soundfile.read(ROOT / "examples" / "sample.wav", dtype="float32")
    starts = np.random.default_rng(0).integers(0, len(audio), count)
    return np.stack([np.take(audio, np.arange(start, start + samples), mode="wrap") for start in starts])


def rate(work: Callable[[], object], audio_s: float, seconds: float) -> float:
    """Return seconds of audio per CPU second, measured over about `seconds` CPU seconds."""
    work()
    count, started = 0, time.process_time()
    while (spent := time.process_time() - started) < seconds:
        work()
        count += 1
    return count * audio_s / spent


def stepper(runner: OnnxRunner, most: int, *, pad: bool) -> Stepper:
    """Return the engine's stepper with capacity for `most` streams."""
    front_end = FrontEnd(runner.contract.features)
    return Stepper(runner, front_end, ChunkReader(runner.contract), capacity=most, max_batch=most, pad_to_bucket=pad)


def throughput(runner: OnnxRunner, settings: Settings, batches: Sequence[int], seconds: float) -> str:
    """Return the table of speeds: the best of `TURNS` repetitions, because other load can only slow down a run."""
    lanes = [lane for lane in make_lanes(settings) if lane.name in ("live", "upload")]
    front_end = FrontEnd(runner.contract.features)
    plain = stepper(runner, max(batches), pad=False)
    padded = stepper(runner, max(batches), pad=True)
    rows = []
    for lane in lanes:
        size = chunk_samples(lane, runner.contract.features)
        for batch in batches:
            audio_s = batch * lane.hops * runner.contract.features.hop_samples / RATE_HZ
            chunks = list(sounds(batch, size))
            features = front_end(np.stack(chunks))
            state = np.zeros((batch, runner.contract.state_size), np.float32)
            slots = list(range(batch))
            bucket = next(bucket for bucket in batch_buckets(max(batches)) if bucket >= batch)
            ways: dict[str, Callable[[], object]] = {
                "bare model": partial(runner.run, features, state),
                "step": partial(plain.run, lane, slots, chunks),
            }
            if bucket != batch:
                ways["padded step"] = partial(padded.run, lane, slots, chunks)
            best = dict.fromkeys(ways, 0.0)
            for _ in range(TURNS):
                for name, way in ways.items():
                    best[name] = max(best[name], rate(way, audio_s, seconds / TURNS))
            bare, step = best["bare model"], best["step"]
            pads = f"{best['padded step']:.0f} (to {bucket})" if "padded step" in best else "–"
            cost = f"{1000 * audio_s / step / batch:.3f}"
            rows.append((lane.name, str(batch), f"{bare:.0f}", f"{step:.0f}", pads, f"{step / bare:.0%}", cost))
    headings = ("lane", "batch", "bare model, x real time", "step", "padded step", "step / bare", "ms of CPU per chunk")
    return markdown(headings, rows)


def scores_of(runner: OnnxRunner, audio: NDArray[np.float32], lane: Lane, *, pad: bool = False,
              most: int | None = None) -> NDArray[np.float32]:  # fmt: skip
    """Return the scores of parallel streams in one lane, float32 (streams, frames, labels)."""
    count = len(audio)
    engine = stepper(runner, most or count, pad=pad)
    size, hop = chunk_samples(lane, runner.contract.features), lane.hops * runner.contract.features.hop_samples
    slots = list(range(count))
    steps = range(0, audio.shape[1] - size + 1, hop)
    return np.concatenate(
        [engine.run(lane, slots, [row[start : start + size].copy() for row in audio]).scores for start in steps], axis=1
    )


def differences(runner: OnnxRunner, settings: Settings, batches: Sequence[int]) -> str:
    """Return how much one stream's scores depend on batch and chunks, separately for probabilities and measures."""
    lanes = {lane.name: lane for lane in make_lanes(settings)}
    live = lanes["live"]
    hop = runner.contract.features.hop_samples
    samples = DIFFERENCE_CHUNKS * live.hops * hop + runner.contract.features.overlap_samples
    audio = sounds(max(batches), samples)
    alone = scores_of(runner, audio[:1], live)
    probable = np.array([label.kind == "probability" for label in runner.contract.labels])

    def row(name: str, other: NDArray[np.float32]) -> tuple[str, str, str]:
        frames = min(alone.shape[1], other.shape[1])
        moved = np.abs(alone[0, :frames] - other[0, :frames])  # [frames, labels]
        return name, f"{moved[:, probable].max():.1e}", f"{moved[:, ~probable].max():.1e}"

    rows = [row(f"batch {n}", scores_of(runner, audio[:n], live)) for n in batches if n > 1]
    odd = max(3, max(batches) // 2 + 1)
    padded = scores_of(runner, audio[:odd], live, pad=True, most=max(batches))
    rows.append(row(f"batch {odd}, padded to {max(batches)}", padded))
    rows += [row(f"lane {n}", scores_of(runner, audio[:1], lanes[n])) for n in ("flush", "upload_tail")]
    upload = Lane("upload", min(settings.upload_chunk_hops, DIFFERENCE_CHUNKS * live.hops), priority=3)
    rows.append(row(f"lane upload, {upload.hops} hops", scores_of(runner, audio[:1], upload)))
    return markdown(("compared with batch 1, live lane", "probabilities, largest difference", "dB and MOS"), rows)


def main() -> None:
    """Run all measurements and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 256])
    parser.add_argument("--seconds", type=float, default=1.0, help="CPU seconds per variant, batch and lane")
    parser.add_argument("--model", type=Path, help="model file (default: the shipped one)")
    parser.add_argument("--record", action="store_true", help="append the tables to benchmarks/RESULTS.md")
    options = parser.parse_args()
    chosen = {"model_path": options.model} if options.model else {}
    settings = Settings(device="cpu", **chosen)
    about = machine()
    runner = make_runner(settings)
    text = throughput(runner, settings, options.batches, options.seconds)
    text += "\n\n" + differences(runner, settings, options.batches)
    print(text)
    if options.record:
        record("engine", about, text)


if __name__ == "__main__":
    main()
