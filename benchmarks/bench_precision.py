"""Compare the shipped model with versions at lower precision: speed and change of scores.

    python benchmarks/bench_precision.py [--model FILE] [--repeats 60] [--record]

The variants are the model as shipped (float32), with 8-bit weights and activations quantised at run time (ONNX
Runtime's `quantize_dynamic`), with 8-bit weights of the matrix products only, and with internal 16-bit floats. Measures
size, milliseconds of CPU per second of audio on one core with one and with 64 streams, and the change of scores on the
frozen set of `training.evaluation.gate`. Requires the `train` extra. On a GPU: `--provider CUDAExecutionProvider`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import speech_qc  # noqa: F401  # first, because it disables ONNX Runtime's telemetry

# isort: split
import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.float16 import convert_float_to_float16
from recording import ROOT, machine, markdown, record

from speech_qc.audio.features import FrontEnd
from speech_qc.contract import METADATA_KEY, ModelContract, parse_contract
from training.evaluation.contenders import model_contender
from training.evaluation.gate import gate_cases, gate_figures
from training.evaluation.models import onnx_score
from training.report import number

CHUNK_HOPS = 10
CHUNKS = 12
BATCHES = (1, 64)
NAMES = ("features", "state", "scores", "new_state")


def variants(model: Path, folder: Path) -> Iterator[tuple[str, Path | str]]:
    """Yield the file of each variant, or the reason why it could not be created."""
    yield "float32, as shipped", model
    makers: dict[str, Callable[[Path], None]] = {
        "int8, everything ONNX Runtime quantises": lambda out: quantize_dynamic(
            model, out, weight_type=QuantType.QInt8
        ),
        "int8, matrix products": lambda out: quantize_dynamic(
            model, out, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8
        ),
        "float16, internal": lambda out: onnx.save(convert_float_to_float16(onnx.load(model), keep_io_types=True), out),
    }
    for place, (name, make) in enumerate(makers.items()):
        out = folder / f"{place}.onnx"
        try:
            make(out)
        except Exception as error:  # the converters raise various exceptions; the table shows the reason
            yield name, f"{type(error).__name__}: {error}"
            continue
        yield name, out


def try_in_child(path: Path, provider: str) -> None:
    """Open a session in a child process, because the runtime may crash on a converted file.

    Raises:
        RuntimeError: The file cannot be opened.
    """
    program = "import sys, onnxruntime as o; o.InferenceSession(sys.argv[1], providers=sys.argv[2:])"
    run = subprocess.run([sys.executable, "-c", program, str(path), provider], capture_output=True, text=True)
    if run.returncode < 0:
        raise RuntimeError(f"ONNX Runtime {ort.__version__} crashes on opening the file (signal {-run.returncode})")
    if run.returncode:
        raise RuntimeError(run.stderr.strip().splitlines()[-1])


def open_session(path: Path, provider: str) -> ort.InferenceSession:
    """Open a session with one thread, like the service."""
    try_in_child(path, provider)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(path, options, providers=[provider])


def run(session: ort.InferenceSession, features: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Run one step."""
    scores, new_state = session.run(list(NAMES[2:]), {NAMES[0]: features, NAMES[1]: state})
    return scores, new_state


def cost(
    sessions: dict[str, ort.InferenceSession], contract: ModelContract, batch: int, repeats: int
) -> dict[str, float]:
    """Return CPU milliseconds per second of audio for every variant; the variants alternate."""
    rng = np.random.default_rng(0)
    features = rng.normal(-8.0, 2.0, (batch, CHUNK_HOPS, contract.features.columns)).astype(np.float32)
    state = np.zeros((batch, contract.state_size), np.float32)
    taken: dict[str, list[float]] = {name: [] for name in sessions}
    for turn in range(repeats + 3):
        for name, session in sessions.items():
            before = time.process_time()
            for _ in range(CHUNKS):
                run(session, features, state)
            if turn >= 3:  # the first repetitions are warm-up
                taken[name].append(time.process_time() - before)
    seconds = batch * CHUNKS * CHUNK_HOPS * contract.features.hop_samples / contract.features.sample_rate_hz
    return {name: statistics.median(cpu) / seconds * 1000 for name, cpu in taken.items()}


def answers(session: ort.InferenceSession, contract: ModelContract) -> np.ndarray:
    """Return the scores of all sounds of the frozen set, (frames, C)."""
    front_end, found = FrontEnd(contract.features), []
    overlap = contract.features.overlap_samples
    for cases in gate_cases().values():
        for case in cases:
            padded = np.concatenate([case.samples, case.samples[: -overlap - 1 : -1]])
            features = front_end(padded[None])
            state = np.zeros((1, contract.state_size), np.float32)
            found.append(run(session, features, state)[0][0])
    return np.concatenate(found)


def mean_auroc(session: ort.InferenceSession, contract: ModelContract) -> float:
    """Return the mean AUROC over the labels on the frozen set."""
    score = onnx_score(session, contract.lookahead_frames, contract.state_size)
    figures = gate_figures(model_contender(contract, score))
    return statistics.fmean(value for name, value in figures.items() if name.startswith("auroc."))


def main() -> None:
    """Run all measurements and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "speech-qc-base.onnx")
    parser.add_argument("--provider", default="CPUExecutionProvider")
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--record", action="store_true", help="append the table to benchmarks/RESULTS.md")
    options = parser.parse_args()
    about = machine()
    properties = {entry.key: entry.value for entry in onnx.load(options.model).metadata_props}
    contract, wrong = parse_contract(properties.get(METADATA_KEY, ""))
    if contract is None:
        raise SystemExit(f"{options.model} has no usable contract: {'; '.join(wrong)}")
    with tempfile.TemporaryDirectory() as folder:
        files = dict(variants(options.model, Path(folder)))
        sessions: dict[str, ort.InferenceSession] = {}
        reasons: dict[str, str] = {}
        for name, file in files.items():
            try:
                if isinstance(file, str):
                    raise RuntimeError(file)
                sessions[name] = open_session(file, options.provider)
            except Exception as error:  # a file that the runtime cannot load is also a result
                reasons[name] = str(error).splitlines()[0][:160]
        costs = {batch: cost(sessions, contract, batch, options.repeats) for batch in BATCHES}
        exact = answers(next(iter(sessions.values())), contract)
        likely = [label.kind == "probability" for label in contract.labels]
        rows = []
        for name, file in files.items():
            if name in reasons:
                rows.append((name, *["–"] * (1 + len(BATCHES)), "–", "–", "–", reasons[name]))
                continue
            change = np.abs(answers(sessions[name], contract) - exact)
            snr = change[:, contract.index("snr_db")]
            rows.append(
                (
                    name,
                    f"{Path(file).stat().st_size / 1e6:.2f} MB",
                    *(f"{costs[batch][name]:.3f}" for batch in BATCHES),
                    f"{change[:, likely].max():.3f} / {change[:, likely].mean():.4f}",
                    f"{snr.max():.1f} / {snr.mean():.2f} dB",
                    number(mean_auroc(sessions[name], contract)),
                    "",
                )
            )
    head = (
        "variant",
        "file",
        *(f"ms of CPU per s of audio, batch {batch}" for batch in BATCHES),
        "probabilities: largest / mean change",
        "`snr_db`: largest / mean change",
        "mean AUROC",
        "",
    )
    table = markdown(head, rows)
    print(table)
    if options.record:
        record("precision", about, table)


if __name__ == "__main__":
    main()
