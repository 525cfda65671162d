"""A tiny ONNX model that fulfils the contract, built in code; every part can be made invalid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

from speech_qc.contract import METADATA_KEY, ModelContract
from speech_qc.engine import echo_contract

HOPS_PER_FRAME = 2


def tiny_contract(**changes: object) -> ModelContract:
    """Return the contract of the tiny model: the echo labels, and a state with one value per label."""
    contract = echo_contract()
    return contract.model_copy(
        update={"name": "tiny", "version": "0.1.0", "state_size": len(contract.labels)} | changes
    )


def write_tiny_model(
    path: Path,
    document: str | None = None,
    *,
    metadata: bool = True,
    frames: str | int = "frames",
    state_name: str = "state",
    batch: str | int = "B",
    elem_type: int = TensorProto.FLOAT,
) -> Path:
    """Write scores = sigmoid(frame @ W + state), new_state = tanh(state / 2 + mean over T of features @ V).

    Args:
        path: File to write.
        document: JSON text for the metadata; by default the matching contract.
        metadata: Whether to write metadata.
        frames: Declared time axis of the scores.
        state_name: Name of the state input.
        batch: Declared batch axis of all tensors.
        elem_type: Type of the state input and output.
    """
    contract = tiny_contract()
    columns, size = contract.features.columns, contract.state_size
    rng = np.random.default_rng(7)
    constants = {
        "frame_shape": np.array([0, -1, HOPS_PER_FRAME * columns], np.int64),
        "W": rng.normal(0, 0.05, (HOPS_PER_FRAME * columns, size)).astype(np.float32),
        "V": rng.normal(0, 0.05, (columns, size)).astype(np.float32),
        "time_axis": np.array([1], np.int64),
        "half": np.array(0.5, np.float32),
    }
    nodes = [
        helper.make_node("Cast", [state_name], ["state_float"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["features", "frame_shape"], ["by_frame"]),  # [B, T / 2, 2 F]
        helper.make_node("MatMul", ["by_frame", "W"], ["projected"]),
        helper.make_node("Unsqueeze", ["state_float", "time_axis"], ["state_frames"]),  # [B, 1, S]
        helper.make_node("Add", ["projected", "state_frames"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
        helper.make_node("MatMul", ["features", "V"], ["hops"]),
        helper.make_node("ReduceMean", ["hops"], ["mean"], axes=[1], keepdims=0),  # [B, S]
        helper.make_node("Mul", ["state_float", "half"], ["old"]),
        helper.make_node("Add", ["mean", "old"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["bounded"]),
        helper.make_node("Cast", ["bounded"], ["new_state"], to=elem_type),
    ]

    def value(name: str, shape: Sequence[str | int], kind: int = TensorProto.FLOAT) -> object:
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        nodes,
        "tiny",
        [value("features", [batch, "T", columns]), value(state_name, [batch, size], elem_type)],
        [value("scores", [batch, frames, size]), value("new_state", [batch, size], elem_type)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if metadata:
        helper.set_model_props(model, {METADATA_KEY: document or contract.model_dump_json()})
    save(model, path)
    return path
