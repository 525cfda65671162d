"""Export a model file: `python -m training.export RUN --data FOLDER --out models/NAME.onnx`.

Calibrates a run's best checkpoint, writes it as ONNX with its contract embedded, measures the exported graph, and
verifies it against PyTorch. The output file is written only if all of this succeeds.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from speech_qc.audio.features import FrontEnd
from speech_qc.contract import METADATA_KEY, LabelSpec, ModelContract, parse_contract
from training.calibrate import calibrate, label_specs
from training.card import CardError, write_card
from training.config import TrainConfig
from training.corpora.manifest import ManifestError
from training.evaluate import evaluate
from training.evaluation.cases import MaterialError
from training.evaluation.models import (
    EvaluationError,
    Scorer,
    model_scorer,
    onnx_score,
    onnx_session,
    read_blend,
    read_run,
)
from training.examples import clip_samples, load_pool
from training.material import (
    CALIBRATION_SEED_OFFSET,
    CLEAN_TELEPHONE,
    CLEAN_WIDE,
    EVALUATION_SEED_OFFSET,
    make_material,
)
from training.model import Detector

Float32 = NDArray[np.float32]

OPSET = 17  # the first with all operators used here in their current form; supported by every runtime since 2022
PARITY_TOLERANCE = 1e-4  # maximum difference for the same audio; absolute for probabilities and state, dB by its range
PARITY_SHAPES = ((1, 2), (1, 50), (2, 2), (3, 10), (4, 100), (5, 34), (8, 20), (16, 6), (33, 4), (2, 800))
CHUNKED_HOPS = 800
GOLDEN_SECONDS = 1.0
GOLDEN_SEED = 20
SNR_BIAS_DB = 1.0  # a larger mean error of snr_db is reported
HELD_OUT = (
    "mixtures of held-out sources: talkers, music and noise that neither training nor model selection used, partly of "
    "corpora whose other recordings did; weights that training started from may know some of them"
)
COMPARED = (
    "labels",
    "snr_db",
    "kinds",
    "followed",
    "clean_speech",
    "clean_recordings",
    "steady",
    "noise_alone",
    "opinion",
)
TENSORS = ("features", "state", "scores", "new_state")


class ExportError(Exception):
    """The exported graph differs from its contract or from PyTorch; no output file was written."""


class _Step(nn.Module):
    """One step as the service runs it; returns calibrated scores and the new state."""

    def __init__(self, net: Detector) -> None:
        super().__init__()
        self.net = net

    def forward(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        logits, new_state = self.net.forward_chunk(features, state)
        return self.net.scores(logits), new_state


def export_graph(net: Detector) -> onnx.ModelProto:
    """Trace a net into an ONNX graph with symbolic batch and time axes and no metadata."""
    step, spec = _Step(net).eval(), net.spec
    example = (torch.zeros(1, 8, spec.columns), net.init_state(1))
    axes = {"features": {0: "B", 1: "T"}, "state": {0: "B"}, "scores": {0: "B", 1: "frames"}, "new_state": {0: "B"}}
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        # The tracing exporter is deprecated but works; the new one requires another package for the same graph. Its
        # other warning (shapes inside the GRU might become constants) is covered by the parity check below.
        warnings.filterwarnings("ignore", "You are using the legacy TorchScript-based ONNX", DeprecationWarning)
        warnings.filterwarnings("ignore", "The feature will be removed", DeprecationWarning)
        warnings.filterwarnings("ignore", "Exporting a model to ONNX with a batch_size other than 1", UserWarning)
        warnings.filterwarnings("ignore", "Converting a tensor to a Python boolean might cause the trace")
        path = Path(folder) / "graph.onnx"
        torch.onnx.export(
            step,
            example,
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=["features", "state"],
            output_names=["scores", "new_state"],
            dynamic_axes=axes,
        )
        graph = onnx.load(path)
    new_state = next(output for output in graph.graph.output if output.name == "new_state")
    new_state.type.tensor_type.shape.dim[1].dim_value = net.state_size  # the exporter cannot infer it from the concat
    onnx.checker.check_model(graph)
    return graph


def verify(model: bytes, net: Detector) -> float:
    """Verify a model file against its contract and against PyTorch.

    Args:
        model: The file's bytes, including the contract.
        net: The calibrated net from which the file was exported.

    Returns:
        The largest difference; that of `snr_db` is relative to its range.

    Raises:
        ExportError: There is a mismatch; the message lists all mismatches.
    """
    session = onnx_session(model)
    contract, wrong = parse_contract(session.get_modelmeta().custom_metadata_map.get(METADATA_KEY, ""))
    if contract is not None:
        inputs = {tensor.name: tensor.shape for tensor in session.get_inputs()}
        wrong = contract.check(inputs, {tensor.name: tensor.shape for tensor in session.get_outputs()})
    if wrong:
        raise ExportError("the graph does not match its contract:\n  " + "\n  ".join(wrong))
    rng = np.random.default_rng(GOLDEN_SEED)
    worst = {shape: _difference(session, net, _rows(net, rng, *shape), rng) for shape in PARITY_SHAPES}
    worst[1, CHUNKED_HOPS] = _chunked_difference(session, net, _rows(net, rng, 1, CHUNKED_HOPS), rng)
    beyond = [f"(B, T) {shape}: {value:.2e}" for shape, value in worst.items() if not value <= PARITY_TOLERANCE]
    if beyond:
        raise ExportError(
            f"expected at most {PARITY_TOLERANCE} between ONNX Runtime and PyTorch, found\n  " + "\n  ".join(beyond)
        )
    return max(worst.values())


def _rows(net: Detector, rng: np.random.Generator, batch: int, hops: int) -> Float32:
    """Return random feature rows with the mean and spread of the training material."""
    noise = rng.standard_normal((batch, hops, net.spec.columns))
    return (net.mean.numpy() + net.spread.numpy() * noise).astype(np.float32)


@torch.no_grad()
def _torch_step(net: Detector, features: Float32, state: Float32) -> tuple[Float32, Float32]:
    scores, new_state = _Step(net.eval())(torch.from_numpy(features), torch.from_numpy(state))
    return scores.numpy(), new_state.numpy()


def _onnx_step(session: Any, features: Float32, state: Float32) -> tuple[Float32, Float32]:
    scores, new_state = session.run(["scores", "new_state"], {"features": features, "state": state})
    return scores, new_state


def _difference(session: Any, net: Detector, features: Float32, rng: np.random.Generator) -> float:
    state = rng.normal(0.0, 0.3, (len(features), net.state_size)).astype(np.float32)
    scores, new_state = _onnx_step(session, features, state)
    return _largest(net, (scores, new_state), _torch_step(net, features, state))


def _chunked_difference(session: Any, net: Detector, features: Float32, rng: np.random.Generator) -> float:
    """Compare one stream in chunks of random length (ONNX Runtime) with the whole sequence (PyTorch)."""
    state = start = np.zeros((1, net.state_size), np.float32)
    parts, position = [], 0
    while position < features.shape[1]:
        hops = net.spec.hops_per_frame * int(rng.integers(1, 30))
        scores, state = _onnx_step(session, features[:, position : position + hops], state)
        parts.append(scores)
        position += hops
    return _largest(net, (np.concatenate(parts, axis=1), state), _torch_step(net, features, start))


def _largest(net: Detector, found: tuple[Float32, Float32], expected: tuple[Float32, Float32]) -> float:
    """Return the largest difference; infinite if shapes differ, NaN if any value is NaN."""
    if found[0].shape != expected[0].shape or found[1].shape != expected[1].shape:
        return float("inf")
    scores = np.abs(found[0] - expected[0]) / (net.high - net.low).numpy()
    return float(np.maximum(scores.max(), np.abs(found[1] - expected[1]).max()))


def golden_vectors(model: bytes, net: Detector) -> dict[str, Float32]:
    """Create a reference step that any runtime must reproduce: a synthetic signal, its features, and the output.

    Returns:
        samples (n,), features [1, T, F], state [1, S] (after the first half of the signal), scores, new_state.
    """
    spec, session = net.spec, onnx_session(model)
    rng = np.random.default_rng(GOLDEN_SEED)
    time = np.arange(int(GOLDEN_SECONDS * spec.sample_rate_hz) + spec.overlap_samples) / spec.sample_rate_hz
    bursts = sum(np.sin(2 * np.pi * 140.0 * k * time) / k for k in range(1, 20)) * (np.sin(2 * np.pi * 3.0 * time) > 0)
    samples = (0.1 * bursts + rng.normal(0.0, 0.01, time.size) * (time > GOLDEN_SECONDS / 2)).astype(np.float32)
    features = FrontEnd(spec)(samples[None])
    _, state = _onnx_step(session, features[:, : features.shape[1] // 4 * 2], np.zeros((1, net.state_size), np.float32))
    scores, new_state = _onnx_step(session, features, state)
    return {"samples": samples, **dict(zip(TENSORS, (features, state, scores, new_state), strict=True))}


def export(
    run: Path,
    data: Path,
    out: Path,
    *,
    mixtures: int = 300,
    evaluation_mixtures: int = 400,
    figures_data: Path | None = None,
    earlier: Path | None = None,
    mos: Path | None = None,
    blend: Path | None = None,
    blend_share: float = 0.0,
) -> ModelContract:
    """Calibrate, export, measure and verify a run's best checkpoint.

    Args:
        run: Run folder of `training.train`.
        data: Corpus folder.
        out: Model file to write; golden vectors are written next to it.
        mixtures: Number of calibration mixtures.
        evaluation_mixtures: Number of mixtures for the figures in the contract.
        figures_data: Corpus folder whose validation split the figures are measured on, if its sources must be unseen in
            calibration and the choice of thresholds (see `training.join`); `data` if None.
        earlier: An older model file to measure on the same mixtures, for the card.
        mos: Folder of rated clips; opinion scores are compared with its split `valid`.
        blend: Another run of the same net, whose weights are averaged with those of `run`.
        blend_share: Their share.

    Raises:
        MaterialError: `mos` has no rated clips.
        EvaluationError: The run has no usable checkpoint.
        ExportError: The graph differs from its contract or from PyTorch.
        ManifestError: The manifest cannot be used.
        ValueError: The manifest leaks between splits, or the pool cannot provide a material.
    """
    net, document = read_run(run) if blend is None else read_blend(run, blend, blend_share)
    config = TrainConfig.model_validate(document["config"])
    pool, _, _ = load_pool(data, config.data, "valid")
    samples, seed = clip_samples(config.data), config.seed + CALIBRATION_SEED_OFFSET
    labels = net.config.labels
    clean = [make_material(pool, labels, samples, seed, mixtures, kind) for kind in (CLEAN_WIDE, CLEAN_TELEPHONE)]
    enter, remarks = calibrate(net, make_material(pool, labels, samples, seed, mixtures), clean)
    del pool, clean
    calibration = {"mixtures": mixtures, "seed": seed, **_calibration(net)}
    contract = _contract(net, document, config, label_specs(net.config, enter), calibration)
    graph = export_graph(net)
    session = onnx_session(graph.SerializeToString())
    scorer = Scorer(contract, onnx_score(session, contract.lookahead_frames, contract.state_size), config)
    where, figures_seed = figures_data or data, config.seed + EVALUATION_SEED_OFFSET
    metrics = evaluate(scorer, where, mixtures=evaluation_mixtures, seed=figures_seed, mos=mos)
    if figures_data is not None:
        metrics["material"]["what"] = HELD_OUT
    if earlier is not None:
        older = model_scorer(earlier)
        figures = evaluate(older, where, mixtures=evaluation_mixtures, seed=figures_seed, mos=mos)
        about = {"name": older.contract.name, "version": older.contract.version}
        metrics["earlier"] = about | {name: figures[name] for name in COMPARED if name in figures}
    contract = contract.model_copy(update={"metrics": metrics})
    bias = metrics["snr_db"].get("bias_db")
    if bias is not None and abs(bias) > SNR_BIAS_DB:
        remarks.append(f"snr_db: mean signed error {bias:.2f} dB; not corrected, but included in the figures")
    onnx.helper.set_model_props(graph, {METADATA_KEY: contract.model_dump_json()})
    model: bytes = graph.SerializeToString()
    largest = verify(model, net)
    _write(out, model, golden_vectors(model, net))
    print("\n".join([*remarks, f"{out}: {len(model)} bytes, largest difference from PyTorch {largest:.1e}"]))  # noqa: T201
    return contract


def _calibration(net: Detector) -> dict[str, dict[str, float]]:
    """Return scale and shift of each label's logits, to load a checkpoint with the calibration of the export."""
    scale, shift = (dict(zip(net.config.labels, row, strict=True)) for row in net.calibration.tolist())
    return {"scale": scale, "shift": shift}


def _contract(
    net: Detector,
    document: dict[str, Any],
    config: TrainConfig,
    labels: tuple[LabelSpec, ...],
    calibration: dict[str, Any],
) -> ModelContract:
    """Build the model's contract, without figures."""
    return ModelContract(
        name=config.name,
        version=config.version,
        features=net.spec,
        labels=labels,
        lookahead_frames=net.config.lookahead_frames,
        state_size=net.state_size,
        training={
            "commit": document["commit"],
            "config": document["config"],
            "seed": config.seed,
            "manifest_sha256": document["manifest_sha256"],
            "steps": document["progress"]["step"],
            "minutes": round(document["progress"]["minutes"], 1),
            "parameters": net.parameter_count(),
            "mmacs_per_s": round(net.macs_per_second() / 1e6, 2),
            "preprocessing": document["preprocessing"],
            "start": document.get("start"),
            "blend": document.get("blend"),
            "validation": document.get("figures", {}),
            "calibration": calibration,
        },
        data=tuple(document["data"]),
    )


def _write(out: Path, model: bytes, golden: dict[str, Float32]) -> None:
    """Write model and golden vectors under temporary names and rename them, so that neither is ever incomplete."""
    out.parent.mkdir(parents=True, exist_ok=True)
    vectors = golden_path(out)
    partial, partial_vectors = out.with_name(f".{out.name}.partial"), vectors.with_name(f".{vectors.name}.partial")
    try:
        partial.write_bytes(model)
        with partial_vectors.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **golden)
        partial_vectors.replace(vectors)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
        partial_vectors.unlink(missing_ok=True)


def golden_path(model: Path) -> Path:
    """Return the path of a model file's golden vectors: `NAME.golden.npz` next to it."""
    return model.with_name(f"{model.stem}.golden.npz")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.export", description=__doc__)
    parser.add_argument("run", type=Path, help="run folder with best.pt")
    parser.add_argument("--data", type=Path, required=True, help="corpus folder with manifest.csv")
    parser.add_argument("--out", type=Path, required=True, help="model file, for instance models/speech-qc-base.onnx")
    parser.add_argument("--mixtures", type=int, default=300, help="calibration mixtures (default: 300)")
    parser.add_argument("--evaluation-mixtures", type=int, default=400, help="mixtures for the figures (default: 400)")
    parser.add_argument("--figures-data", type=Path, help="corpus folder for the figures (default: that of --data)")
    parser.add_argument("--earlier", type=Path, help="older model file to measure on the same mixtures, for the card")
    parser.add_argument("--mos", type=Path, help="folder of training.mos; its split valid stands in for human scores")
    parser.add_argument(
        "--blend", type=Path, help="another run of the chain, whose weights are averaged with the run's"
    )
    parser.add_argument("--blend-share", type=float, default=0.5, help="share of its weights (default: 0.5)")
    parser.add_argument("--card", type=Path, help="also update the generated part of this model card")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        export(
            options.run,
            options.data,
            options.out,
            mixtures=options.mixtures,
            evaluation_mixtures=options.evaluation_mixtures,
            figures_data=options.figures_data,
            earlier=options.earlier,
            mos=options.mos,
            blend=options.blend,
            blend_share=options.blend_share,
        )
        if options.card:
            write_card(options.out, options.card)
    except (CardError, EvaluationError, ExportError, ManifestError, MaterialError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
