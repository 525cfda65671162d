"""Compare the CPU cost of feature variants and of the model's chunk lengths.

    python benchmarks/bench_features.py [--repeats 40] [--record]

Measures the transform of 400 windows with NumPy and with SciPy, the front end in blocks of different sizes and on live
chunks of several streams, and the model alone on one stream in chunks of different lengths. The variants alternate. A
figure is the median of CPU milliseconds per second of audio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import scipy.fft
import soundfile
from recording import ROOT, machine, markdown, record

from speech_qc.audio.features import FrontEnd
from speech_qc.pipeline.factory import make_runner
from speech_qc.settings import Settings

HOPS = 400  # 4 s, the chunk of an upload
CHUNKS = (100, 200, 400, 800, 1600)
BLOCKS = (50, 100, 200, 400)
LIVE_BATCHES = (1, 8, 64, 128)
LIVE_SAMPLES = 1600


def transforms(samples: np.ndarray) -> dict[str, Callable[[], object]]:
    """Return NumPy's and SciPy's real transform of the same windows in float32."""
    windows = np.zeros((HOPS, 512), np.float32)
    windows[:, :400] = np.lib.stride_tricks.sliding_window_view(samples, 400)[: HOPS * 160 : 160]
    return {
        "transform, NumPy": lambda: np.fft.rfft(windows, axis=-1),
        "transform, SciPy": lambda: scipy.fft.rfft(windows, axis=-1),
    }


def front_ends(samples: np.ndarray) -> dict[str, Callable[[], object]]:
    """Return the whole front end with each block size."""
    ways: dict[str, Callable[[], object]] = {}
    for rows in BLOCKS:
        front_end = FrontEnd(block_rows=rows)
        ways[f"front end, blocks of {rows} rows"] = partial(front_end, samples[None])
    return ways


def live_chunks(samples: np.ndarray, batch: int) -> dict[str, Callable[[], object]]:
    """Return the front end on one 100 ms chunk of each of `batch` streams."""
    front_end = FrontEnd()
    chunks = np.stack([samples[start : start + LIVE_SAMPLES + 240] for start in range(0, 100 * batch, 100)])
    return {f"front end, {batch} live chunks in one batch": lambda: front_end(chunks)}


def models(samples: np.ndarray) -> dict[str, Callable[[], object]]:
    """Return the model on one stream with each chunk length; every length covers the same 16 s."""
    runner = make_runner(Settings(device="cpu"))
    longest = max(CHUNKS)
    rows = FrontEnd()(np.resize(samples, longest * 160 + 240)[None])

    def run(hops: int) -> None:
        state = np.zeros((1, runner.contract.state_size), np.float32)
        for start in range(0, longest, hops):
            _, state = runner.run(rows[:, start : start + hops], state)

    return {f"model, chunks of {hops} hops": partial(run, hops) for hops in CHUNKS}


def medians(ways: dict[str, Callable[[], object]], repeats: int, seconds: float) -> Sequence[tuple[str, str]]:
    """Run the variants alternately; return median CPU ms per second of audio."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 3):
        for name, way in ways.items():
            before = time.process_time()
            way()
            if turn >= 3:  # the first repetitions are warm-up
                taken[name].append(time.process_time() - before)
    return [(name, f"{statistics.median(cpu) / seconds * 1000:.3f}") for name, cpu in taken.items()]


def main() -> None:
    """Run all measurements and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--record", action="store_true", help="append the table to benchmarks/RESULTS.md")
    options = parser.parse_args()
    about = machine()
    audio, _ = soundfile.read(ROOT / "examples" / "sample.wav", dtype="float32")
    samples = audio[: HOPS * 160 + 240]
    rows = [
        *medians(transforms(samples), options.repeats, HOPS / 100),
        *medians(front_ends(samples), options.repeats, HOPS / 100),
        *(
            row
            for b in LIVE_BATCHES
            for row in medians(live_chunks(samples, b), options.repeats, b * LIVE_SAMPLES / 16_000)
        ),
        *medians(models(samples), options.repeats, max(CHUNKS) / 100),
    ]
    table = markdown(("variant", "ms of CPU per second of audio"), rows)
    print(table)
    if options.record:
        record("features and chunk length", about, table)


if __name__ == "__main__":
    main()
