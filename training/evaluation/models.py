"""Models and runs as scorers: load a file or a checkpoint as a function from feature rows to scores."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from speech_qc.contract import METADATA_KEY, ModelContract, parse_contract
from training.calibrate import label_specs
from training.config import TrainConfig
from training.evaluation.contenders import BATCH
from training.model import Detector
from training.start import BEST
from training.train import predict

Float32 = NDArray[np.float32]
Score = Callable[[Float32], Float32]
"""features float32 (N, T, F) to scores float32 (N, T / 2 - lookahead, C), row j for frame j."""


class EvaluationError(Exception):
    """The model or run cannot be measured; the message says what was expected."""


@dataclass(frozen=True, slots=True)
class Scorer:
    """A detector under test: its contract, its scoring function, and its training configuration."""

    contract: ModelContract
    score: Score
    config: TrainConfig


def read_run(run: Path) -> tuple[Detector, dict[str, Any]]:
    """Build the net of a run's best checkpoint, with its averaged weights.

    Raises:
        EvaluationError: The checkpoint does not exist or was not written by `training.train`.
    """
    path = run / BEST
    try:
        document: dict[str, Any] = torch.load(path, weights_only=True)
        net = Detector(TrainConfig.model_validate(document["config"]).model)
        net.load_state_dict(document["ema"])
    except OSError as error:
        raise EvaluationError(f"expected a checkpoint at {path}: {error}; run training.train first") from error
    except (KeyError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EvaluationError(f"{path} is not a checkpoint of training.train: {reason}") from error
    return net.eval(), document


def read_blend(run: Path, other: Path, share: float) -> tuple[Detector, dict[str, Any]]:
    """Build the net whose weights are the mean of two runs of one chain, with `share` of the other run's.

    A run from another's weights stays close enough for the mean to work, and the mean keeps more of what the first run
    knew. Source: Wortsman et al. 2022, "Robust fine-tuning of zero-shot models".

    Raises:
        EvaluationError: A run has no usable checkpoint, or their nets differ.
    """
    (net, document), (second, earlier) = read_run(run), read_run(other)
    if net.config != second.config:
        raise EvaluationError(f"expected runs of one net, {other} has another one than {run}")
    state, past = net.state_dict(), second.state_dict()
    for name, value in state.items():
        if value.dtype.is_floating_point:
            value.lerp_(past[name], share)
    made = {"share": share, "config": earlier["config"], "steps": earlier["progress"]["step"]}
    return net, document | {"blend": made}


def run_scorer(run: Path) -> Scorer:
    """Load a run's best checkpoint without calibration, with thresholds of 0.5."""
    net, document = read_run(run)
    config = TrainConfig.model_validate(document["config"])
    contract = ModelContract(
        name=config.name,
        version=config.version,
        labels=label_specs(net.config),
        lookahead_frames=net.config.lookahead_frames,
        state_size=net.state_size,
    )

    def score(features: Float32) -> Float32:
        with torch.no_grad():
            return np.asarray(net.scores(predict(net, torch.from_numpy(features), BATCH)).numpy())

    return Scorer(contract, score, config)


def model_scorer(path: Path) -> Scorer:
    """Load an exported file; its contract contains the training configuration.

    Raises:
        EvaluationError: The file is not a model with a contract and a training configuration.
    """
    if not path.is_file():
        raise EvaluationError(f"expected an ONNX file at {path}: run training.export first")
    session = onnx_session(path.read_bytes())
    document = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY, "")
    contract, wrong = parse_contract(document)
    if contract is None:
        raise EvaluationError(f"{path} has no usable contract:\n  " + "\n  ".join(wrong))
    try:
        config = TrainConfig.model_validate(contract.training["config"])
    except (KeyError, ValueError) as error:
        raise EvaluationError(f"{path}: expected a training configuration in its contract: {error}") from error
    return Scorer(contract, onnx_score(session, contract.lookahead_frames, contract.state_size), config)


def onnx_session(model: bytes) -> Any:
    """Open a session with one CPU thread, so that figures do not depend on the number of cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def onnx_score(session: Any, lookahead_frames: int, state_size: int) -> Score:
    """Return a function that scores whole sequences from a zero state and drops the first look-ahead frames."""

    def score(features: Float32) -> Float32:
        parts = []
        for start in range(0, len(features), BATCH):
            chunk = features[start : start + BATCH]
            state = np.zeros((len(chunk), state_size), np.float32)
            parts.append(session.run(["scores"], {"features": chunk, "state": state})[0][:, lookahead_frames:])
        return np.concatenate(parts)

    return score
