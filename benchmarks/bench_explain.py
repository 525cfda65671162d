"""Measure how often the frequency band in an event's evidence matches the true band of the disturbance.

    python benchmarks/bench_explain.py --data FOLDER [--model MODEL.onnx] [--mixtures 200] [--split valid] [--record]

FOLDER is a corpus folder with a manifest, as for training. Each mixture is 12 s of speech of one speaker of the split
and one source of known band at 0 to 20 dB SNR (active speech to source while it is active). The source lasts 1 to 6 s
or, in a quarter of the mixtures, throughout. It is noise in a brick-wall band, 200 to 1500 mel wide between 100 and
7000 Hz, or in three of ten mixtures a pure tone of 250 to 4000 Hz. The true band of a tone is the resolution of the
analysis: 80 Hz (half the main lobe of the window) or one mel band to either side, whichever is wider.

Each mixture is inspected as a file with `explain`. An event matches the source if at least 80 % of it is within the
source's time. Its band is right if, on the mel scale, the intersection with the true band is at least half of the true
band's width and at least half of the union (IoU >= 0.5).

`hiding bands` is an alternative method. It lowers the 64 mel columns of the event to -80 dB, 4 at a time, and scores
all 16 versions. The band is the run of groups around the one that lowers the score most (mean logit), in which each
group has at least 0.3 of that effect. Lowering the columns to the recording's own floor or to silence is right less
often.
"""

from __future__ import annotations

import argparse
import io
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from recording import machine, markdown, record

from speech_qc.audio import DecodeLimits
from speech_qc.audio.features import FrontEnd
from speech_qc.engine import Runner
from speech_qc.pipeline.direct import DirectModel, inspect_blocks
from speech_qc.pipeline.explain import Explainer, SpectrumKeeper
from speech_qc.pipeline.factory import make_runner
from speech_qc.pipeline.recording import InspectOptions, RecordingFindings
from speech_qc.pipeline.sources import BytesSource
from speech_qc.scoring import Event, load_profiles
from speech_qc.settings import Settings
from training.corpora.manifest import read_manifest
from training.corpora.preprocess import NORMAL_LEVEL_DBFS, load

RATE_HZ, SECONDS = 16_000, 12
OWN = {"noise": ("noise", "stationary_noise"), "tone": ("interference", "tone")}
OTHER = ("noise", "stationary_noise", "transient_noise", "interference", "tone", "music")
WITHIN, OVERLAP, IOU = 0.8, 0.5, 0.5
GROUP, HIDDEN_SHARE, LEAD_FRAMES = 4, 0.3, 50
HIDDEN = np.float32(-80.0 / 10.0 * np.log(10.0))  # value of a hidden log-mel column

Float32 = NDArray[np.float32]
Span = tuple[float, float]


def mel(hz: float) -> float:
    """Convert Hz to HTK mel."""
    return float(2595.0 * np.log10(1.0 + hz / 700.0))


def hertz(mel: float) -> float:
    """Convert HTK mel to Hz."""
    return float(700.0 * (10.0 ** (mel / 2595.0) - 1.0))


@dataclass(frozen=True)
class Mixture:
    """Speech with one source of known band and time."""

    samples: Float32
    kind: str
    span_s: Span
    band_hz: Span

    @property
    def place(self) -> str:
        """Whether the source lasts throughout, as shown in the table."""
        return "throughout" if self.span_s == (0.0, SECONDS) else "for a time"


def read_talkers(folder: Path, split: str) -> list[list[Float32]]:
    """Read the speech of the split by speaker, at one level."""
    stems = [s for s in read_manifest(folder) if s.kind == "speech" and s.split == split and s.seconds > 1.0]
    talkers: dict[str, list[Float32]] = defaultdict(list)
    for recording in load(folder, stems, progress=False)[0]:
        talkers[recording.stem.group].append(recording.samples)
    return [talkers[name] for name in sorted(talkers)]


def make_mixture(rng: np.random.Generator, talkers: list[list[Float32]]) -> Mixture:
    """Draw one mixture."""
    count = SECONDS * RATE_HZ
    samples = np.zeros(count, np.float32)
    talker, position = talkers[int(rng.integers(len(talkers)))], int(rng.uniform(0.0, 0.5) * RATE_HZ)
    while position < count:
        body = talker[int(rng.integers(len(talker)))][: count - position]
        samples[position : position + len(body)] += body
        position += len(body) + int(rng.uniform(0.1, 0.8) * RATE_HZ)
    kind = "tone" if rng.random() < 0.3 else "noise"
    start, stop = 0, count
    if rng.random() >= 0.25:
        length = int(rng.uniform(1.0, 6.0) * RATE_HZ)
        start = int(rng.integers(0, count - length))
        stop = start + length
    source, band_hz = make_source(rng, kind, stop - start)
    gain = 10.0 ** ((NORMAL_LEVEL_DBFS - rng.uniform(0.0, 20.0)) / 20.0) / np.sqrt(np.mean(source**2))
    samples[start:stop] += (source * gain).astype(np.float32)
    samples *= np.float32(min(1.0, 0.98 / float(np.abs(samples).max())))
    return Mixture(samples, kind, (start / RATE_HZ, stop / RATE_HZ), band_hz)


def make_source(rng: np.random.Generator, kind: str, count: int) -> tuple[NDArray[np.float64], Span]:
    """Generate a tone or band-limited noise with fades of 10 ms; return it with its band."""
    if kind == "tone":
        pitch_hz = float(np.exp(rng.uniform(np.log(250.0), np.log(4000.0))))
        source = np.sin(2.0 * np.pi * pitch_hz * np.arange(count) / RATE_HZ)
        half_hz = max(80.0, hertz(mel(pitch_hz) + 43.2) - pitch_hz)  # 43.2 mel: from one mel band to the next
        band_hz = (pitch_hz - half_hz, pitch_hz + half_hz)
    else:
        width = rng.uniform(200.0, 1500.0)
        low = rng.uniform(mel(100.0), mel(7000.0) - width)
        band_hz = (hertz(low), hertz(low + width))
        spectrum, at_hz = np.fft.rfft(rng.standard_normal(count)), np.fft.rfftfreq(count, 1 / RATE_HZ)
        spectrum[(at_hz < band_hz[0]) | (at_hz > band_hz[1])] = 0.0
        source = np.fft.irfft(spectrum, count)
    edge = np.linspace(0.0, 1.0, 160)
    source[:160] *= edge
    source[-160:] *= edge[::-1]
    return source, band_hz


def inspect_all(mixtures: list[Mixture], runner: Runner) -> list[RecordingFindings]:
    """Inspect each mixture as a recording."""
    options = InspectOptions(load_profiles().get("default"), explain=True)
    model = DirectModel(runner)
    answers = []
    for mixture in mixtures:
        file = io.BytesIO()
        soundfile.write(file, mixture.samples, RATE_HZ, format="WAV", subtype="PCM_16")
        answers.append(inspect_blocks(model, BytesSource(file.getvalue(), DecodeLimits()), options))
    return answers


def hidden_band(runner: Runner, features: Float32, event: Event) -> Span | None:
    """Find the band by hiding groups of mel columns from the model; None if hiding never lowers the score.

    Args:
        runner: The model.
        features: Features of the whole recording including look-ahead, (T, F).
        event: An event with an end.
    """
    contract = runner.contract
    bands, hops, late = contract.features.mel_bands, contract.features.hops_per_frame, contract.lookahead_frames
    assert event.offset_frame is not None
    start, stop = max(0, event.onset_frame - LEAD_FRAMES), event.offset_frame + late
    stretch = features[start * hops : stop * hops]
    versions = np.repeat(stretch[None], bands // GROUP + 1, axis=0)
    begin = (event.onset_frame - start) * hops
    for group in range(bands // GROUP):
        columns = slice(group * GROUP, (group + 1) * GROUP)
        part = versions[group + 1, begin:, columns]
        np.minimum(part, HIDDEN, out=part)
    scores, _ = runner.run(versions, np.zeros((len(versions), contract.state_size), np.float32))
    own = np.clip(scores[:, late + event.onset_frame - start :, contract.index(event.label)], 1e-4, 1 - 1e-4)
    logits = np.log(own / (1.0 - own)).mean(axis=1)
    cost = logits[0] - logits[1:]
    first = last = int(cost.argmax())
    if cost[first] <= 0.0:
        return None
    while first > 0 and cost[first - 1] >= HIDDEN_SHARE * cost.max():
        first -= 1
    while last < len(cost) - 1 and cost[last + 1] >= HIDDEN_SHARE * cost.max():
        last += 1
    step = (mel(contract.features.mel_high_hz) - mel(contract.features.mel_low_hz)) / (bands + 1)
    base = mel(contract.features.mel_low_hz) + 0.5 * step
    return hertz(base + first * GROUP * step), hertz(base + (last + 1) * GROUP * step)


def is_right(found_hz: Span | None, true_hz: Span) -> bool:
    """Whether a band is right, as defined in the module docstring."""
    if found_hz is None:
        return False
    (low, high), (true_low, true_high) = (tuple(map(mel, band)) for band in (found_hz, true_hz))
    shared = max(0.0, min(high, true_high) - max(low, true_low))
    union = max(high, true_high) - min(low, true_low)
    return shared >= OVERLAP * (true_high - true_low) and shared >= IOU * union


def main() -> None:
    """Mix, inspect, compare and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="corpus folder with a manifest")
    parser.add_argument("--model", type=Path, help="model file (default: that of the settings)")
    parser.add_argument("--mixtures", type=int, default=200)
    parser.add_argument("--split", choices=("train", "valid", "test"), default="valid", help="split of the speech")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument(
        "--hide", action="store_true", help="also find bands by hiding them from the model; takes minutes"
    )
    parser.add_argument("--record", action="store_true", help="append the table to benchmarks/RESULTS.md")
    options = parser.parse_args()
    about = machine()
    settings = Settings(device="cpu", **({"model_path": options.model} if options.model else {}))
    runner = make_runner(settings)
    talkers = read_talkers(options.data, options.split)
    if not talkers:
        raise SystemExit(f"expected speech of the split {options.split!r} in {options.data}, got none in the manifest")
    rng = np.random.default_rng(options.seed)
    mixtures = [make_mixture(rng, talkers) for _ in range(options.mixtures)]
    answers = inspect_all(mixtures, runner)
    text = compare(mixtures, answers, runner, hide=options.hide)
    print(text)
    if options.record:
        record("evidence", about, text, {str(options.data): "FOLDER"})


def compare(mixtures: list[Mixture], answers: list[RecordingFindings], runner: Runner, *, hide: bool) -> str:
    """Return the table and the cost."""
    front_end, explainer = FrontEnd(runner.contract.features), Explainer(runner.contract)
    right: dict[tuple[str, ...], list[bool]] = defaultdict(list)
    hidden: dict[tuple[str, ...], list[bool]] = defaultdict(list)
    seconds = spent_s = hide_s = events = 0.0
    for mixture, answer in zip(mixtures, answers, strict=True):
        channel, evidence = answer.channels[0], answer.evidence
        assert evidence is not None and channel.frames is not None
        padded = np.pad(mixture.samples, (0, 240 + 640), mode="symmetric")
        started_s = time.process_time()
        keeper = SpectrumKeeper(front_end)
        keeper.add(padded)
        explainer.explain(channel.events, channel.frames, keeper.kept())
        spent_s += time.process_time() - started_s
        seconds, events = seconds + SECONDS, events + len(channel.events)
        features = front_end(padded[None])[0]
        for event, found in zip(channel.events, evidence[0], strict=True):
            offset_s = event.offset_s or SECONDS
            shared_s = min(offset_s, mixture.span_s[1]) - max(event.onset_s, mixture.span_s[0])
            if event.label not in OTHER or shared_s < WITHIN * (offset_s - event.onset_s):
                continue
            group = "its own" if event.label in OWN[mixture.kind] else "other"
            band = None if found.band is None else (found.band.low_hz, found.band.high_hz)
            keys = ((group, mixture.kind, mixture.place), (group, "all", ""))
            for key in keys:
                right[key].append(is_right(band, mixture.band_hz))
            if hide:
                started_s = time.process_time()
                verdict = is_right(hidden_band(runner, features, event), mixture.band_hz)
                hide_s += time.process_time() - started_s
                for key in keys:
                    hidden[key].append(verdict)
    rows = []
    for case, values in sorted(right.items()):
        row = [case[0], " ".join(case[1:]).strip(), str(len(values)), f"{100 * np.mean(values):.1f} %"]
        rows.append(row + ([f"{100 * np.mean(hidden[case]):.1f} %"] if hide else []))
    headings = ["label of the event", "source", "events", "right band"] + (["right by hiding bands"] if hide else [])
    matched = sum(len(values) for key, values in right.items() if key[1] == "all")
    cost = f"\n\nEvidence costs {1000 * spent_s / seconds:.2f} ms of CPU per second of audio ({events:.0f} events)"
    cost += f"; hiding bands {1000 * hide_s / matched:.0f} ms per event." if hide else "."
    return markdown(headings, rows) + cost


if __name__ == "__main__":
    main()
