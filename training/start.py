"""Start a net from an earlier one, maybe a smaller one: from the checkpoint of a run or from a model file."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from speech_qc.contract import LABEL_CATALOG
from training.config import ConfigError, TrainConfig
from training.model import Detector, ModelConfig
from training.model_file import read_model

BEST = "best.pt"
"""The checkpoint of a run with the best validation score."""
SCORE_TOLERANCE = 1e-4  # difference of a larger net at first, relative to the range of the scores
LABEL_BUFFERS = ("low", "high", "calibration")
"""Buffers with a column per label, mapped by name instead of by position."""

Blocks = Sequence[tuple[int, int]]
"""An axis as consecutive parts, each with its earlier and its new size."""


def start_from(path: Path, net: Detector) -> dict[str, Any]:
    """Load the weights of an earlier net, including normalisation and calibration, and return their provenance.

    A larger net gives the same scores as the earlier one at first (`fitted`). Modules that the earlier net lacks keep
    their initial values; their names are in the provenance as `new`. The PCEN image and the slow memory of the earlier
    net may be left out; their names are in the provenance as `left_out`.

    Args:
        path: A run folder, whose averaged best weights are used, or a model file (`.onnx`). The convolutions of a net
            from a model file need `settle_norms` before they are trained.
        net: Changed in place.

    Raises:
        ConfigError: There is no such run or file, its net does not fit, or this net gives other scores although it has
            no new modules.
    """
    if path.suffix == ".onnx":
        stored, contract = read_model(path)
        weights, config = stored.state_dict(), stored.config
        made = {name: contract.training[name] for name in ("commit", "manifest_sha256", "config", "steps", "minutes")}
        made |= {"model": f"{contract.name} {contract.version}", "sha256": _sha256(path)}
    else:
        weights, config, made = _read_checkpoint(path / BEST)
    try:
        earlier = Detector(config)
        earlier.load_state_dict(fitted(weights, config, earlier)[0])
        kept, left_out = without_parts(weights, config, net.config)
        complete, new = fitted(kept, config, net)
        net.load_state_dict(complete)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ConfigError(f"{path} has a net of a different shape: {error}") from error
    difference = score_difference(earlier, net)
    if difference > SCORE_TOLERANCE and not (new or left_out):
        raise ConfigError(f"{path}: expected the scores of the earlier net, got a difference of {difference:.1e}")
    return made | ({"new": new} if new else {}) | ({"left_out": left_out} if left_out else {})


@torch.no_grad()
def score_difference(earlier: Detector, net: Detector) -> float:
    """Return the largest difference of the earlier net's scores on random features, relative to their range."""
    noise = torch.randn(2, 100, earlier.spec.columns, generator=torch.Generator().manual_seed(0))
    features = earlier.mean + earlier.spread * noise
    columns = [net.config.labels.index(name) for name in earlier.config.labels]
    mode = net.training
    found, expected = (one.scores(one.eval()(features)) for one in (net, earlier))
    net.train(mode)
    return float(((found[..., columns] - expected) / (earlier.high - earlier.low)).abs().max())


def _read_checkpoint(path: Path) -> tuple[dict[str, Tensor], ModelConfig, dict[str, Any]]:
    """Return the averaged weights of a checkpoint, the net's configuration, and the provenance."""
    if not path.is_file():
        raise ConfigError(f"expected a finished run with {path}, or a model file (.onnx): train it first")
    try:
        document = torch.load(path, weights_only=True)
        config = TrainConfig.model_validate(document["config"]).model
        made = {name: document[name] for name in ("commit", "manifest_sha256", "config")}
        progress = document["progress"]
        made |= {"steps": progress["step"], "minutes": round(progress["minutes"], 1)}
        return document["ema"], config, made
    except (KeyError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ConfigError(f"{path} is not a checkpoint of training.train: {error}") from error


def without_parts(
    weights: Mapping[str, Tensor], earlier: ModelConfig, config: ModelConfig
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights of an earlier net without its PCEN image and its memory, if the new net has none.

    Returns:
        The other weights, and the names of the modules that were left out.
    """
    kept, left_out = dict(weights), []
    if earlier.pcen and not config.pcen:
        kept["conv1.weight"] = kept["conv1.weight"][:, :1]
        left_out.append("pcen")
    if earlier.memory_size and not config.memory_size:
        for name in ("head.0.weight", "shares.weight"):
            if name in kept:
                kept[name] = kept[name][:, : earlier.hidden_size]
        left_out.append("memory")
    return {name: value for name, value in kept.items() if name.split(".")[0] not in left_out}, left_out


def fitted(weights: Mapping[str, Tensor], earlier: ModelConfig, net: Detector) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights of an earlier net in the shapes of this one, so that both give the same scores.

    Weights go to the leading part of each axis: those of a GRU gate by gate, those that read a concatenation part by
    part. Weights with which the earlier units would read new ones are zero; new units keep their initial weights. A
    linear image layer, as in the first version, becomes the equivalent convolution.

    Args:
        weights: State of the earlier net.
        earlier: Its configuration.
        net: Provides shapes and initial values; not changed.

    Returns:
        A complete state, and the names of the modules that keep their initial values because the earlier net has none.

    Raises:
        ValueError: The earlier net is larger somewhere, has a part that this one lacks, or has its labels in another
            order; the message names the weights.
    """
    own = net.state_dict()
    _check_labels(earlier.labels, net.config.labels)
    lost = sorted(weights.keys() - own.keys())
    if lost:
        raise ValueError(f"expected no other weights than this net's, got also {', '.join(lost)}")
    missing = [name for name in own if name not in weights]
    new = sorted({name.split(".")[0] for name in missing})
    partial = [name for name in missing if any(known.split(".")[0] == name.split(".")[0] for known in weights)]
    if partial:
        raise ValueError(f"expected also the weights {', '.join(partial)}")
    state = dict(own)
    columns = [net.config.labels.index(name) for name in earlier.labels]
    state["calibration"] = own["calibration"].clone()
    state["calibration"][:, columns] = weights["calibration"]
    for name, value in weights.items():
        if name in LABEL_BUFFERS:
            continue
        if name == "image.weight":
            value = value.reshape(len(value), -1, *own[name].shape[2:])
        state[name] = _placed(name, value, own[name], _blocks(name, value, own[name], earlier, net))
    return state, new


def _check_labels(earlier: Sequence[str], labels: Sequence[str]) -> None:
    """Raise unless the labels of each head begin with those of the earlier head."""
    for opinion in (False, True):
        before, after = ([n for n in names if (LABEL_CATALOG[n][1] == "mos") is opinion] for names in (earlier, labels))
        if after[: len(before)] != before:
            raise ValueError(f"expected labels that begin with {', '.join(before)}, got {', '.join(after)}")


def _blocks(name: str, value: Tensor, own: Tensor, earlier: ModelConfig, net: Detector) -> list[Blocks]:
    """Return the parts of each axis."""
    axes: list[Blocks] = [[pair] for pair in zip(value.shape, own.shape, strict=True)]
    module, _, field = name.rpartition(".")
    if isinstance(getattr(net, module, None), nn.GRU):
        axes[0] = [(len(value) // 3, len(own) // 3)] * 3
    if name == "gru.weight_ih_l0" and earlier.fusion == "early" and net.config.fusion == "early":
        now = net.config
        rest = value.shape[1] - earlier.image_size - earlier.wave_size
        new_rest = own.shape[1] - now.image_size - now.wave_size
        axes[1] = [(earlier.image_size, now.image_size), (earlier.wave_size, now.wave_size), (rest, new_rest)]
    if module in ("head.0", "shares") and field == "weight":  # read the GRU's output, maybe followed by a memory
        hidden = earlier.hidden_size, net.config.hidden_size
        axes[1] = [hidden, (value.shape[1] - hidden[0], own.shape[1] - hidden[1])]
    return axes


def _placed(name: str, value: Tensor, own: Tensor, axes: Sequence[Blocks]) -> Tensor:
    """Return initial weights with the earlier ones in their place."""
    kernel = value.shape[2:] != own.shape[2:]
    if kernel or any(before > now for blocks in axes for before, now in blocks):
        raise ValueError(f"{name}: expected at most {list(own.shape)} and an equal kernel, got {list(value.shape)}")
    if not axes:
        return value  # a count
    result = own.clone()
    places = [_places(blocks) for blocks in axes]
    result[places[0]] = 0.0
    result[torch.meshgrid(*places, indexing="ij")] = value
    return result


def _places(blocks: Blocks) -> Tensor:
    starts = np.cumsum([0, *(now for _, now in blocks)])
    return torch.cat([torch.arange(before) + int(at) for at, (before, _) in zip(starts, blocks, strict=False)])


@torch.no_grad()
def settle_norms(net: Detector, features: Tensor) -> None:
    """Give each batch normalisation the statistics of its input and change its scale and shift to match.

    In evaluation, the net computes the same as before. In training, a normalisation uses the statistics of the batch;
    those of a folded one are lost, and without this the first step would start from a different function.

    Args:
        net: Changed in place; left in evaluation mode.
        features: (N, T, F), from training mixtures.
    """
    found: dict[nn.BatchNorm2d, tuple[Tensor, Tensor]] = {}

    def measure(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        found[norm] = inputs[0].mean(dim=(0, 2, 3)), inputs[0].var(dim=(0, 2, 3))

    hooks = [m.register_forward_pre_hook(measure) for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    try:
        net.eval()(features)
    finally:
        for hook in hooks:
            hook.remove()
    for norm, (mean, var) in found.items():
        assert norm.running_mean is not None
        assert norm.running_var is not None
        slope = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        norm.bias.add_(slope * (mean - norm.running_mean))
        norm.weight.copy_(slope * torch.sqrt(var + norm.eps))
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
