"""Rate clips with DNSMOS P.835 and DistillMOS: `python mos_teacher.py SAMPLES.npy SCORES.npy`.

Runs in a separate environment with `speechmos`, `distillmos` and PyTorch, whose dependencies conflict with the
service's, so it imports nothing from this project. SAMPLES is int16 (N, samples) at 16 kHz, SCORES float32 (N, 4): SIG,
BAK and OVRL of DNSMOS, and the score of DistillMOS. A run that was interrupted continues at the first clip without
scores.
"""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
COLUMNS = ("DNSMOS SIG", "DNSMOS BAK", "DNSMOS OVRL", "DistillMOS")
DNSMOS_SAMPLES = int(9.01 * 16_000)  # input length; shorter clips are repeated, as in the authors' code
DISTILLMOS_SAMPLES = 122_880  # input length; the middle of longer clips is rated
SAVE_EVERY = 25  # clips; about a quarter of a minute


def dnsmos() -> Callable[[Float32], tuple[float, float, float]]:
    """Load DNSMOS P.835; the result rates a clip: SIG, BAK, OVRL."""
    import onnxruntime
    from speechmos import dnsmos as package

    folder = Path(package.__file__).resolve().parent / "dnsmos_models"
    paths = [str(folder / name) for name in ("sig_bak_ovr.onnx", "model_v8.onnx")]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    teacher = package.DNSMOS(*paths)
    session = onnxruntime.InferenceSession(paths[0], options, providers=["CPUExecutionProvider"])

    def rate(samples: Float32) -> tuple[float, float, float]:
        raw = session.run(None, {"input_1": np.resize(samples, DNSMOS_SAMPLES)[None]})[0][0]
        sig, bak, ovrl = teacher.get_polyfit_val(*raw, False)
        return float(sig), float(bak), float(ovrl)

    return rate


def distillmos_model() -> Any:
    """Load DistillMOS' net without torchaudio, which only its command line needs."""
    missing = "torchaudio" not in sys.modules
    if missing:
        sys.modules["torchaudio"] = types.ModuleType("torchaudio")
    try:
        import distillmos as package
    finally:
        if missing:
            del sys.modules["torchaudio"]  # others ask whether it is installed
    return package.ConvTransformerSQAModel().eval()


def distillmos() -> Callable[[Float32], float]:
    """Load DistillMOS; the result rates a clip.

    It computes in bfloat16 where the processor has it: several times as fast, and the scores differ by up to 0.02. On
    others, bfloat16 would take fourteen times as long as float32.
    """
    import torch

    torch.set_num_threads(1)
    model, fast = distillmos_model(), has_bfloat16()

    def rate(samples: Float32) -> float:
        start = max(0, len(samples) - DISTILLMOS_SAMPLES) // 2
        middle = torch.from_numpy(samples[start : start + DISTILLMOS_SAMPLES])
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=fast):
            return float(model(middle[None]))

    return rate


def has_bfloat16() -> bool:
    """Return whether the processor multiplies matrices in bfloat16, as Linux says; False on other systems."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def rate_all(
    source: Path, out: Path, rate: Callable[[Float32], tuple[float, ...]], columns: int = len(COLUMNS)
) -> None:
    """Rate every clip that has no scores yet.

    `out` always has the scores of the first clips and is replaced as a whole, because a training run may be reading it.

    Args:
        source: int16 (N, samples).
        out: float32 (N, columns), continued if it exists.
        rate: Returns the scores of a clip of samples within ±1.
        columns: Number of scores per clip.

    Raises:
        ValueError: `out` exists and has other columns or more clips than `source`.
    """
    clips = np.load(source, mmap_mode="r")
    rated = np.load(out) if out.exists() else np.zeros((0, columns), np.float32)
    if rated.ndim != 2 or rated.shape[1] != columns or len(rated) > len(clips):
        raise ValueError(
            f"expected scores of at most {len(clips)} clips with {columns} columns in {out}, got {rated.shape}: "
            "remove the file"
        )
    scores = np.zeros((len(clips), columns), np.float32)
    scores[: len(rated)] = rated
    partial = out.with_name(f"{out.name}.partial.npy")
    for index in range(len(rated), len(clips)):
        scores[index] = rate(clips[index].astype(np.float32) / np.float32(32768.0))
        if (index + 1) % SAVE_EVERY == 0 or index + 1 == len(clips):
            np.save(partial, scores[: index + 1])
            os.replace(partial, out)
            print(f"{index + 1} of {len(clips)}", flush=True)  # noqa: T201


def main(argv: list[str]) -> int:
    """Run the command line; return the exit code."""
    if len(argv) != 2:
        print(f"error: expected SAMPLES.npy SCORES.npy, got {len(argv)} arguments", file=sys.stderr)  # noqa: T201
        return 2
    by_dnsmos, by_distillmos = dnsmos(), distillmos()
    try:
        rate_all(Path(argv[0]), Path(argv[1]), lambda samples: (*by_dnsmos(samples), by_distillmos(samples)))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
