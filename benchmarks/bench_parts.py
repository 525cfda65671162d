"""Measure what the parts of the shipped net are worth: figures with each of them silenced in turn.

    python benchmarks/bench_parts.py --data FOLDER [--model FILE] [--mixtures 150] [--record]

FOLDER is a corpus folder. The figures are those of validation during training (`training.train.validate`), on mixtures
of the split `valid`, uncalibrated. A part is silenced by setting the weights that read it to 0, without training the
rest again, so the table shows what the net relies on, not how good a net without the part could be. Requires the
`train` extra.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from recording import ROOT, machine, markdown, record

from training.config import TrainConfig
from training.material import make_checks
from training.model import Detector
from training.model_file import read_model
from training.train import validate

FIGURES = ("speech", "noise", "interference", "interfering_speech", "music", "tone", "dropout", "snr_hard")


@torch.no_grad()
def without_pcen(net: Detector) -> None:
    """Let the first convolution read only the log-mel image."""
    net.conv1.weight[:, 1] = 0.0


@torch.no_grad()
def without_memory(net: Detector) -> None:
    """Let the head read only the GRU."""
    first = net.head[0]
    assert isinstance(first, torch.nn.Linear)
    first.weight[:, net.config.hidden_size :] = 0.0
    if net.shares is not None:
        net.shares.weight[:, net.config.hidden_size :] = 0.0


@torch.no_grad()
def without_shares(net: Detector) -> None:
    """Leave `snr_db` to the head."""
    net.snr_gain.zero_()


PARTS: dict[str, tuple[str, Callable[[Detector], None]]] = {
    "PCEN image": ("pcen", without_pcen),
    "slow memory": ("memory_size", without_memory),
    "speech shares": ("snr_bands", without_shares),
}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="corpus folder with a manifest")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "speech-qc-base.onnx")
    parser.add_argument("--mixtures", type=int, default=150)
    parser.add_argument("--record", action="store_true", help="append the table to benchmarks/RESULTS.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    about = machine()
    net, contract = read_model(options.model)
    data = TrainConfig.model_validate(contract.training["config"]).data
    data = data.model_copy(update={"valid_mixtures": options.mixtures, "mos_folder": None})
    checks = make_checks(options.data, data, net.config.labels, contract.training["seed"])
    whole = {name: value.clone() for name, value in net.state_dict().items()}
    rows = []
    present = {name: part for name, (setting, part) in PARTS.items() if getattr(net.config, setting)}
    for name, silence in {"whole net": None, **present}.items():
        net.load_state_dict(whole)
        if silence is not None:
            silence(net)
        figures = validate(net, checks)
        title = name if silence is None else f"without the {name}"
        rows.append([title, *(f"{figures[key]:.3f}" for key in FIGURES)])
    table = markdown(["net", *FIGURES], rows)
    print(table)
    if options.record:
        record("parts of the net", about, table, {str(options.data): "FOLDER"})


if __name__ == "__main__":
    main()
