"""Runs a model file with ONNX Runtime; the only module that imports it.

Checks at load time whether the file can be served, and reports which execution provider actually runs it. Must not
depend on sessions, batching or audio: features and state in, scores and new state out.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from speech_qc.contract import METADATA_KEY, ModelContract, parse_contract
from speech_qc.engine.protocols import FloatArray
from speech_qc.errors import ContractError, InferenceError, StartupError
from speech_qc.wire.vocabulary import Device

logger = logging.getLogger(__name__)


CPU_PROVIDER = "CPUExecutionProvider"
CUDA_PROVIDER = "CUDAExecutionProvider"

CUDA_OPTIONS = {
    "cudnn_conv_algo_search": "HEURISTIC",  # the default, EXHAUSTIVE, tunes for every new shape: spikes of 0.3 to 1.3 s
    "arena_extend_strategy": "kSameAsRequested",  # memory grows by what the warm-up needs, not in powers of two
    "use_tf32": "0",  # ten-bit products would exceed the tolerance of 1e-4 for the same audio
}

SILENT, WARNING = 4, 2  # ONNX Runtime's severity numbers; WARNING is its default


class OnnxRunner:
    """A loaded model file; calls may overlap on the CPU, where no buffers are bound.

    Args:
        model_path: ONNX file with its contract in the metadata.
        device: `cuda` refuses to start without a working GPU, `auto` falls back to the CPU with a warning.
        intra_op_threads: Threads inside one step on the CPU.
        bind_buffers: Give every warmed shape its own buffers on the device; by default only on CUDA.

    Raises:
        ContractError: The file is missing, unreadable, not ONNX, or does not have what this service needs; the message
            lists every mismatch.
        StartupError: `cuda` was requested but is not available.
    """

    def __init__(
        self,
        model_path: Path,
        device: Device = "auto",
        intra_op_threads: int = 1,
        *,
        bind_buffers: bool | None = None,
    ) -> None:
        model = _read(model_path)
        self.sha256 = hashlib.sha256(model).hexdigest()
        self._session = _open_session(model, model_path, device, intra_op_threads)
        # Ask the session, not the build: get_available_providers() lists CUDA even without a GPU.
        self.provider: str = self._session.get_providers()[0]
        self.contract = _checked_contract(self._session, model_path)
        self.provider_fallback = device == "auto" and self.provider != CUDA_PROVIDER
        self.fixed_shapes = self.provider == CUDA_PROVIDER
        self._bind_buffers = self.fixed_shapes if bind_buffers is None else bind_buffers
        self._buffers: dict[tuple[int, int], _BoundBuffers] = {}

    def run(self, features: FloatArray, state: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Run one step; see `Runner.run`.

        Raises:
            InferenceError: ONNX Runtime failed, or the scores do not have the shape of the contract.
        """
        batch, hops = features.shape[:2]
        buffers = self._buffers.get((batch, hops))
        try:
            if buffers is not None:
                scores, new_state = buffers.run(features, state)
            else:
                scores, new_state = self._session.run(["scores", "new_state"], {"features": features, "state": state})
        except Exception as error:  # ONNX Runtime's own errors share no base class below Exception
            raise InferenceError(f"ONNX Runtime could not run features {features.shape}: {error}") from error
        expected = self._scores_shape(batch, hops)
        if scores.shape != expected or new_state.shape != state.shape:
            raise InferenceError(
                f"expected scores {expected} and new_state {state.shape}, got {scores.shape} and {new_state.shape} "
                "from the model: export it with symbolic batch and time axes"
            )
        return scores, new_state

    def warm_up(self, shapes: Sequence[tuple[int, int]]) -> None:
        """Run every (B, T) once and, on CUDA, allocate buffers for it; other shapes still run, but slower.

        Raises:
            InferenceError: The model cannot run one of them.
        """
        for batch, hops in shapes:
            features = np.zeros((batch, hops, self.contract.features.columns), np.float32)
            state = np.zeros((batch, self.contract.state_size), np.float32)
            if self._bind_buffers and (batch, hops) not in self._buffers:
                self._buffers[batch, hops] = _BoundBuffers(
                    self._session, features, state, self._scores_shape(batch, hops), self.provider
                )
            self.run(features, state)

    def _scores_shape(self, batch: int, hops: int) -> tuple[int, int, int]:
        return batch, hops // self.contract.features.hops_per_frame, len(self.contract.labels)


class _BoundBuffers:
    """Inputs and outputs of one (B, T) at fixed device addresses, so that a step allocates no device memory."""

    def __init__(
        self, session: Any, features: FloatArray, state: FloatArray, scores_shape: tuple[int, ...], provider: str
    ) -> None:
        device = "cuda" if provider == CUDA_PROVIDER else "cpu"
        self._session = session
        self._binding = session.io_binding()
        self._features = onnxruntime.OrtValue.ortvalue_from_numpy(features.copy(), device, 0)
        self._state = onnxruntime.OrtValue.ortvalue_from_numpy(state.copy(), device, 0)
        self._scores = onnxruntime.OrtValue.ortvalue_from_shape_and_type(scores_shape, np.float32, device, 0)
        self._new_state = onnxruntime.OrtValue.ortvalue_from_shape_and_type(state.shape, np.float32, device, 0)
        self._binding.bind_ortvalue_input("features", self._features)
        self._binding.bind_ortvalue_input("state", self._state)
        self._binding.bind_ortvalue_output("scores", self._scores)
        self._binding.bind_ortvalue_output("new_state", self._new_state)
        self._shared = device == "cpu"

    def run(self, features: FloatArray, state: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Copy in, run, copy out; the caller owns the returned arrays."""
        self._features.update_inplace(np.ascontiguousarray(features))
        self._state.update_inplace(np.ascontiguousarray(state))
        self._session.run_with_iobinding(self._binding)
        scores, new_state = self._scores.numpy(), self._new_state.numpy()
        # On the CPU, numpy() is a view of the buffer that the next step overwrites; from a GPU it is already a copy.
        return (scores.copy(), new_state.copy()) if self._shared else (scores, new_state)


def _read(path: Path) -> bytes:
    """Read the file once, so that the hash covers exactly the bytes that are run."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ContractError(
            f"model file {path}: expected a readable ONNX file, got {error.strerror or error}; "
            "set SPEECHQC_MODEL_PATH to one"
        ) from error


def _open_session(model: bytes, path: Path, device: Device, intra_op_threads: int) -> Any:
    """Create the session on the best provider that `device` allows."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads must not use a shared core
    try:
        if device == "cpu":
            return onnxruntime.InferenceSession(model, options, providers=[CPU_PROVIDER])
        with _captured_output(quiet=device == "auto") as output:
            if hasattr(onnxruntime, "preload_dlls"):
                onnxruntime.preload_dlls()  # finds the CUDA and cuDNN wheels, which are not on the library path
            providers = [(CUDA_PROVIDER, CUDA_OPTIONS), CPU_PROVIDER]
            session = onnxruntime.InferenceSession(model, options, providers=providers)
    except Exception as error:  # ONNX Runtime's own errors share no base class below Exception
        raise ContractError(
            f"model file {path}: expected one ONNX file that contains its weights, got an error from ONNX Runtime: "
            f"{error}"
        ) from error
    if session.get_providers()[0] != CUDA_PROVIDER:
        lines = [line for line in output.getvalue().splitlines() if line.strip("* ")]
        reason = lines[0] if lines else "no usable CUDA device or driver"
        if device == "cuda":
            raise StartupError(
                f"device cuda was requested, but the model runs on {session.get_providers()[0]} ({reason}): "
                "install the cuda extra and an NVIDIA driver, or set SPEECHQC_DEVICE to auto or cpu"
            )
        logger.warning(
            "device auto: CUDA is not available (%s), the model runs on the CPU; device cpu skips this check",
            reason,
        )
    return session


@contextlib.contextmanager
def _captured_output(*, quiet: bool) -> Iterator[io.StringIO]:
    """Capture the runtime's stdout output, because a command may write JSON there; `quiet` also silences its log."""
    output = io.StringIO()
    if quiet:
        onnxruntime.set_default_logger_severity(SILENT)
    try:
        with contextlib.redirect_stdout(output):
            yield output
    finally:
        if quiet:
            onnxruntime.set_default_logger_severity(WARNING)


def _checked_contract(session: Any, path: Path) -> ModelContract:
    """Read the contract from the metadata and check the graph against it; one error lists every mismatch."""
    wrong = [
        f"{side} {tensor.name!r}: expected tensor(float), got {tensor.type}"
        for side, tensors in (("input", session.get_inputs()), ("output", session.get_outputs()))
        for tensor in tensors
        if tensor.type != "tensor(float)"
    ]
    document = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if document is None:
        contract, mistakes = None, [f"metadata {METADATA_KEY!r}: expected a JSON document, got none"]
    else:
        contract, mistakes = parse_contract(document)
    wrong += mistakes
    if contract is not None:
        wrong += contract.check(
            {tensor.name: tensor.shape for tensor in session.get_inputs()},
            {tensor.name: tensor.shape for tensor in session.get_outputs()},
        )
    if contract is None or wrong:
        lines = "\n  ".join(wrong)
        raise ContractError(
            f"model file {path} does not match this service; export it again with this version, or fix:\n  {lines}",
            mismatches=wrong,
        )
    return contract
