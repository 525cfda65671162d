"""Read an exported model file back into a net, the inverse of `training.export`.

A file no longer has the net's own weights: the exporter folds batch normalisation into convolutions, reorders the gates
of GRUs and transposes linear layers. `read_model` undoes this and verifies the net against the file.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from speech_qc.contract import METADATA_KEY, ModelContract, parse_contract
from training.config import ConfigError, TrainConfig
from training.model import Detector

MODEL_TOLERANCE = 1e-4  # maximum difference from the model file; scores relative to their range
_CHECKED_CHUNK = (3, 50)  # streams and rows of the random features on which net and file are compared
_ONNX_TO_TORCH_GATES = (1, 0, 2)  # update, reset, new -> reset, update, new

Float32 = NDArray[np.float32]


def read_model(path: Path) -> tuple[Detector, ModelContract]:
    """Rebuild the net of an exported model file, calibrated, in evaluation mode.

    Batch normalisation was folded, so it is neutral here: mean 0, variance 1.

    Raises:
        ConfigError: The file is not an export of `training.export`, or the rebuilt net gives other values than the file
            on random features.
    """
    try:
        data = path.read_bytes()
        model = onnx.load_model_from_string(data)
    except OSError as error:
        raise ConfigError(f"expected a model file at {path}: {error}") from error
    except Exception as error:  # the parser of protocol buffers has no exception class of its own that onnx exports
        raise ConfigError(f"expected an ONNX file at {path}, got something else: {error}") from error
    properties = {entry.key: entry.value for entry in model.metadata_props}
    contract, wrong = parse_contract(properties.get(METADATA_KEY, ""))
    if contract is None:
        raise ConfigError(f"{path} has no usable contract:\n  " + "\n  ".join(wrong))
    try:
        net = Detector(TrainConfig.model_validate(contract.training["config"]).model)
        calibration = contract.training["calibration"]
        rows = [[float(calibration[row][name]) for name in net.config.labels] for row in ("scale", "shift")]
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"{path}: expected configuration and calibration of training.export in the contract: {error}"
        ) from error
    weights = {name: torch.from_numpy(value.copy()) for name, value in graph_weights(model.graph, net).items()}
    weights |= {name: net.state_dict()[name] for name in ("low", "high")} | {"calibration": torch.tensor(rows)}
    try:
        counts = {name: value for name, value in net.state_dict().items() if name.endswith("num_batches_tracked")}
        net.load_state_dict(counts | weights)
    except RuntimeError as error:
        raise ConfigError(f"{path}: the graph lacks weights of the net in its contract: {error}") from error
    difference = model_difference(data, net.eval())
    if not difference <= MODEL_TOLERANCE:
        raise ConfigError(f"{path}: expected the net to match within {MODEL_TOLERANCE}, got {difference:.1e}")
    return net, contract


def graph_weights(graph: Any, net: Detector) -> dict[str, Float32]:
    """Return the constants of an exported graph as weights of the net, by name, in the layout of PyTorch.

    Args:
        graph: ONNX graph, traced from a net of the same configuration in evaluation mode.
        net: Says which convolutions are followed by a normalisation; not changed.
    """
    stored = {entry.name: onnx.numpy_helper.to_array(entry) for entry in graph.initializer}
    known = net.state_dict()
    found = {name[4:]: value for name, value in stored.items() if name.startswith("net.") and name[4:] in known}
    modules = dict(net.named_modules())
    for node in graph.node:
        module = _module_of(node.name)
        arrays = [stored[name] for name in node.input if name in stored]
        if module not in modules or not arrays:
            continue
        if node.op_type == "Conv":
            found[f"{module}.weight"] = arrays[0]
            if f"{module}.bias" in known:
                found[f"{module}.bias"] = arrays[1]
            else:
                norm = module.replace("conv", "norm")
                found |= {f"{norm}.{name}": value for name, value in _neutral(modules[norm], arrays[1]).items()}
        elif node.op_type == "MatMul":
            found[f"{module}.weight"] = arrays[0].T
        elif node.op_type == "Gemm":
            found |= {f"{module}.weight": arrays[0], f"{module}.bias": arrays[1]}
        elif node.op_type == "Add":
            found[f"{module}.bias"] = arrays[0]
        elif node.op_type == "GRU":
            found |= {f"{module}.{name}_l0": value for name, value in _gru(*arrays[:3]).items()}
    return {name: value for name, value in found.items() if name in known}


def _module_of(node: str) -> str:
    """Return the qualified name of the module that a node was traced in: `/head/head.0/MatMul` is of `head.0`."""
    names: list[str] = []
    for part in node.split("/")[1:-1]:
        if names and part.startswith(f"{names[-1]}."):
            names.pop()
        names.append(part)
    return ".".join(names)


def _neutral(norm: Any, bias: Float32) -> dict[str, Float32]:
    """Return a normalisation that only adds the bias of the convolution it was folded into."""
    one = np.ones_like(bias)
    weight = one * math.sqrt(1.0 + norm.eps)
    return {"weight": weight, "bias": bias, "running_mean": 0.0 * one, "running_var": one}


def _gru(read: Float32, kept: Float32, bias: Float32) -> dict[str, Float32]:
    """Return the weights of a GRU with its gates in the order of PyTorch."""

    def gates(value: Float32) -> Float32:
        return np.concatenate([np.split(value, 3)[gate] for gate in _ONNX_TO_TORCH_GATES])

    read_bias, kept_bias = np.split(bias[0], 2)
    values = {"weight_ih": read[0], "weight_hh": kept[0], "bias_ih": read_bias, "bias_hh": kept_bias}
    return {name: gates(value) for name, value in values.items()}


@torch.no_grad()
def model_difference(model: bytes, net: Detector) -> float:
    """Return the largest difference between a model file and a net on random features; infinite if shapes differ."""
    rng = np.random.default_rng(0)
    batch, rows = _CHECKED_CHUNK
    features = net.mean.numpy() + net.spread.numpy() * rng.standard_normal((batch, rows, net.spec.columns))
    features = features.astype(np.float32)
    state = rng.normal(0.0, 0.3, (batch, net.state_size)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    try:
        expected = session.run(["scores", "new_state"], {"features": features, "state": state})
    except Exception:  # ONNX Runtime has an exception class per status, and all mean that the shapes do not fit
        return math.inf
    logits, new_state = net.forward_chunk(torch.from_numpy(features), torch.from_numpy(state))
    scores = net.scores(logits).numpy()
    if expected[0].shape != scores.shape or expected[1].shape != new_state.shape:
        return math.inf
    relative = np.abs(expected[0] - scores) / (net.high - net.low).numpy()
    return float(max(relative.max(), np.abs(expected[1] - new_state.numpy()).max()))
