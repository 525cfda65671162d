"""Rate clips with DNSMOS P.835: `python mos_teacher.py SAMPLES.npy SCORES.npy`.

Runs in a separate environment with `speechmos`, whose dependencies conflict with the service's, so it imports nothing
from this project. SAMPLES is int16 (N, samples) at 16 kHz, SCORES float32 (N, 3): SIG, BAK, OVRL.
"""

from __future__ import annotations

import os
import sys

import numpy as np
import onnxruntime
from speechmos import dnsmos

WINDOW = int(9.01 * 16_000)  # the teacher's input length; shorter clips are repeated, as in the authors' code


def main(source: str, out: str) -> None:
    """Score every clip."""
    folder = os.path.join(os.path.dirname(os.path.abspath(dnsmos.__file__)), "dnsmos_models")
    paths = [os.path.join(folder, name) for name in ("sig_bak_ovr.onnx", "model_v8.onnx")]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    teacher = dnsmos.DNSMOS(*paths)
    session = onnxruntime.InferenceSession(paths[0], options)
    clips = np.load(source, mmap_mode="r")
    scores = np.zeros((len(clips), 3), np.float32)
    for index, clip in enumerate(clips):
        window = np.resize(clip.astype(np.float32) / 32768.0, WINDOW)
        raw = session.run(None, {"input_1": window[None]})[0][0]
        scores[index] = teacher.get_polyfit_val(*raw, False)
        if index % 50 == 49:
            np.save(f"{out}.partial.npy", scores[: index + 1])
            os.replace(f"{out}.partial.npy", out)  # a concurrent training run must not read a partial file
            print(f"{index + 1} of {len(clips)}", flush=True)  # noqa: T201
    np.save(out, scores)


if __name__ == "__main__":
    main(*sys.argv[1:3])
