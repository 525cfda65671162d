"""Make `sample.wav`: a voice alone, then with a fan, then with a ring-back tone; noise and tone are synthetic.

python examples/make_sample.py FIRST.flac SECOND.flac OUT.wav     (needs the `train` extra)
"""

from __future__ import annotations

import sys

import numpy as np
import soundfile
from numpy.typing import NDArray

from training.corpora.preprocess import SAMPLE_RATE_HZ, active_level_db
from training.mixing.synth import CALL_TONES, cadenced, hiss

SPEECH_DBFS = -22.0
FAN_SNR_DB = 8.0
TONE_SNR_DB = 6.0
GAP_S = 0.35

Float32 = NDArray[np.float32]


def at_level(samples: Float32, level_dbfs: float) -> Float32:
    """Scale a signal so that its active parts have the given level."""
    return samples * np.float32(10 ** ((level_dbfs - active_level_db(samples)) / 20))


def main(first: str, second: str, out: str) -> None:
    """Write the sample."""
    clips = []
    for path in (first, second):
        samples, rate = soundfile.read(path, dtype="float32")
        if rate != SAMPLE_RATE_HZ:
            raise SystemExit(f"expected {SAMPLE_RATE_HZ} Hz, got {rate} Hz in {path}: resample it")
        clips.append(at_level(samples, SPEECH_DBFS))
    rng = np.random.default_rng(7)
    gap = np.zeros(int(GAP_S * SAMPLE_RATE_HZ), np.float32)
    alone, noisy, rung = clips[0], clips[1].copy(), clips[0].copy()
    noisy += at_level(hiss(len(noisy), rng), SPEECH_DBFS - FAN_SNR_DB)
    frequencies, _ = CALL_TONES["ring_us"]
    rung += at_level(cadenced(frequencies, (1.0, 0.5), len(rung), rng), SPEECH_DBFS - TONE_SNR_DB)
    floor = rng.standard_normal(sum(map(len, clips)) + len(clips[0]) + 2 * len(gap)) * 10 ** (-78 / 20)
    total = np.concatenate([alone, gap, noisy, gap, rung]) + floor.astype(np.float32)
    soundfile.write(out, total, SAMPLE_RATE_HZ, subtype="PCM_16")


if __name__ == "__main__":
    main(*sys.argv[1:])
