"""Measure the CPU cost of parts of the hot path: the metrics of a live chunk, and the `scores` message.

    python benchmarks/bench_hot_path.py [--repeats 40] [--record]

`metrics`: the observations of a live chunk (its lag, its time in the queue, and its share of the step's two figures).
The variants keep the series of each lane, like `telemetry.metrics.Metrics`, or look up the labels in each step.

`scores`: the message with five frames of all labels. The variants write it from arrays, like `live.score_messages`, or
build it from its type in `wire.server_messages`.

`facts`: levels and losses of a live channel at its own rate, per chunk of 100 ms, measured alone and together with the
others of a pool; the last column is a whole chunk of one stream, inference included.
`tones`: the comparison of events with the sound, for speech without a suspect frame and for a dial tone.

The variants alternate. A figure is a median of CPU time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
import soundfile
import soxr
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from recording import machine, markdown, record

from speech_qc import Stream
from speech_qc.contract import LABEL_CATALOG
from speech_qc.embedded.detector import Detector
from speech_qc.engine import EchoRunner
from speech_qc.pipeline.channel_meter import ChannelMeter, MeterPool
from speech_qc.pipeline.refiner import EventRefiner
from speech_qc.scoring.reading import ScoreBlock, ScoreReader
from speech_qc.settings import Settings
from speech_qc.telemetry.metrics import Metrics
from speech_qc.wire.encode import to_json
from speech_qc.wire.server_messages import Scores, ScoresChannel

Float32 = NDArray[np.float32]

SAMPLE = Path(__file__).resolve().parent.parent / "examples" / "sample.wav"
BATCHES = (1, 8, 64, 128)
CHUNKS = 2048  # per repetition
FRAMES = 5  # per message of 100 ms
SHARED = 32  # channels of a pool that are measured together
WARM_UP = 3  # repetitions that are not counted


@dataclass(frozen=True, slots=True)
class StepFigures:
    """Observations of one step and its chunks, in seconds."""

    step_s: float
    queue_s: list[float]
    lag_s: list[float]


def kept_series(figures: StepFigures, metrics: Metrics) -> None:
    """Record the observations of one step, like the engine and the scorers."""
    metrics.on_step("live", len(figures.queue_s), figures.queue_s, figures.step_s)
    for value in figures.lag_s:
        metrics.stream_lag_seconds.observe(value)


def looked_up(figures: StepFigures, metrics: Metrics) -> None:
    """Record the observations of one step and look up the labels."""
    metrics.step_seconds.labels("live").observe(figures.step_s)
    metrics.batch.labels("live").observe(len(figures.queue_s))
    series = metrics.queue_seconds.labels("live")
    for value in figures.queue_s:
        series.observe(value)
    for value in figures.lag_s:
        metrics.stream_lag_seconds.observe(value)


def make_steps(batch: int) -> list[StepFigures]:
    """Generate steps of `CHUNKS` chunks in total, with durations typical of a loaded server."""
    random = np.random.default_rng(batch)
    return [
        StepFigures(
            step_s=0.001 + 0.0003 * batch,
            queue_s=random.lognormal(np.log(0.004), 0.8, batch).tolist(),
            lag_s=random.lognormal(np.log(0.015), 0.8, batch).tolist(),
        )
        for _ in range(CHUNKS // batch)
    ]


def median_us(works: list[Callable[[], None]], count: int, repeats: int) -> list[float]:
    """Return the median CPU time per operation of each function, µs; each call does `count` operations."""
    taken_us: list[list[float]] = [[] for _ in works]
    for turn in range(repeats + WARM_UP):
        for place, work in enumerate(works):
            before_ns = time.process_time_ns()
            work()
            if turn >= WARM_UP:
                taken_us[place].append((time.process_time_ns() - before_ns) / 1000 / count)
    return [statistics.median(each) for each in taken_us]


def metrics_table(repeats: int) -> str:
    """Return the CPU time per chunk of each variant, by batch size, as Markdown."""
    metrics = Metrics(CollectorRegistry())
    rows = []
    for batch in BATCHES:
        steps = make_steps(batch)

        def observe_all(observe: Callable[[StepFigures, Metrics], None], steps: list[StepFigures] = steps) -> None:
            for figures in steps:
                observe(figures, metrics)

        kept, looked = median_us(
            [lambda: observe_all(kept_series), lambda: observe_all(looked_up)], len(steps) * batch, repeats
        )
        rows.append([f"{batch}", f"{kept:.2f}", f"{looked:.2f}"])
    return markdown(["chunks per step", "series kept, µs per chunk", "labels looked up at each step"], rows)


def scores_table(repeats: int) -> str:
    """Return the CPU time per message of each variant, as Markdown."""
    random = np.random.default_rng(0)
    columns: dict[str, list[float | None]] = {
        label: [round(float(value), 4) for value in random.random(FRAMES)] for label in LABEL_CATALOG
    }
    texts = [orjson.dumps(column)[1:-1] for column in columns.values()]
    prefixes = [f'"{label}":['.encode() for label in columns]

    def from_arrays() -> bytes:
        channels = b'{"channel":0,"frames":{' + b"],".join(map(bytes.__add__, prefixes, texts)) + b"]"
        return b'{"type":"scores","first_frame":5,"start_s":0.1,"channels":[' + channels + b"}}]}"

    def from_type() -> bytes:
        channels = [ScoresChannel(channel=0, frames=columns)]
        return to_json(Scores(first_frame=5, start_s=0.1, channels=channels).document())

    if orjson.loads(from_arrays()) != orjson.loads(from_type()):
        raise SystemExit("the variants produced different messages, so their times are not comparable")

    def repeated(write: Callable[[], bytes]) -> Callable[[], None]:
        def work() -> None:
            for _ in range(CHUNKS):
                write()

        return work

    arrays, typed = median_us([repeated(from_arrays), repeated(from_type)], CHUNKS, repeats)
    return markdown(["written from arrays, µs per message", "built from its type"], [[f"{arrays:.1f}", f"{typed:.1f}"]])


def facts_table(repeats: int) -> str:
    """Return the CPU time of a live channel's measurements, as Markdown."""
    sample, _ = soundfile.read(SAMPLE, dtype="float32")
    detector = Detector(Settings(device="cpu"))
    rows = []
    for rate_hz in (8_000, 16_000, 48_000):
        audio = np.tile(soxr.resample(sample, 16_000, rate_hz), 6)
        chunks = np.split(audio[: len(audio) // (rate_hz // 10) * (rate_hz // 10)], len(audio) // (rate_hz // 10))

        def measured(rate_hz: int = rate_hz, chunks: list[Float32] = chunks) -> None:
            meter = ChannelMeter(rate_hz)
            for chunk in chunks:
                meter.push(chunk)
                if meter.known is not None:
                    meter.collect()

        def together(rate_hz: int = rate_hz, chunks: list[Float32] = chunks) -> None:
            pool = MeterPool()
            meters = [ChannelMeter(rate_hz, pool=pool) for _ in range(SHARED)]
            for chunk in chunks[: len(chunks) // SHARED * SHARED]:
                for meter in meters:
                    meter.push(chunk)
                for meter in meters:
                    if meter.known is not None:
                        meter.collect()

        def whole(rate_hz: int = rate_hz, chunks: list[Float32] = chunks) -> None:
            stream = Stream(sample_rate=rate_hz, detector=detector)
            for chunk in chunks:
                stream.push(chunk)

        alone, chunk_us = median_us([measured, whole], len(chunks), max(1, repeats // 10))
        pooled = median_us([together], len(chunks) // SHARED * SHARED * SHARED, 1)[0]
        rows.append([f"{rate_hz}", f"{alone:.1f}", f"{pooled:.1f}", f"{chunk_us:.0f}"])
    columns = ["rate, Hz", "one channel, µs per chunk", f"{SHARED} channels of a pool", "a whole chunk"]
    return markdown(columns, rows)


def tones_table(repeats: int) -> str:
    """Return the CPU time per chunk of the comparison of events with the sound, as Markdown."""
    contract = EchoRunner(2).contract
    samples = (0.1 * np.sin(2 * np.pi * 425 * np.arange(30 * 16_000) / 16_000)).astype(np.float32)
    cells = []
    for score in (0.0, 0.9):
        scores = np.zeros((FRAMES, len(contract.labels)), np.float32)
        if contract.has("tone"):
            scores[:, contract.index("tone")] = score

        block = ScoreReader(contract).read_one(scores)

        def refined(block: ScoreBlock = block) -> None:
            refiner = EventRefiner(contract)
            for first in range(0, 1400, FRAMES):
                refiner.refine(first, block, [], lambda a, b: samples[a:b], done=False)

        cells += [f"{median_us([refined], 280, repeats)[0]:.1f}"]
    return markdown(["no suspect frame, µs per chunk", "a tone"], [cells])


def main() -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=40, help="number of counted repetitions")
    parser.add_argument("--record", action="store_true", help="append the tables to benchmarks/RESULTS.md")
    options = parser.parse_args()
    about = machine()
    tables = (metrics_table, scores_table, facts_table, tones_table)
    text = "\n\n".join(table(options.repeats) for table in tables)
    print(text)
    if options.record:
        record("metrics and messages on the hot path", about, text)


if __name__ == "__main__":
    main()
