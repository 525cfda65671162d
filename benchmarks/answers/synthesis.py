"""Speech of espeak-ng, a formant synthesiser that puts true zeros into the closures of stops."""

from __future__ import annotations

import io
import shutil
import subprocess
from functools import lru_cache

import numpy as np
import soundfile

from answers.signal import Float64, Sound

SENTENCES = {
    "en-us": (
        "Please keep the ticket until the clerk at the back desk has checked it.",
        "Pick up a packet of tea, a pot of butter and two cups at the corner shop.",
        "The captain asked about the depth of the dock before the boat could depart.",
    ),
    "en-gb": (
        "Your appointment on the twentieth of October has been put back to quarter past ten.",
        "Take the second exit, keep to the left, and park opposite the post office.",
    ),
    "de": (
        "Bitte packen Sie das Paket gut ein und geben Sie es bis Donnerstag an der Theke ab.",
        "Der Techniker kommt am achten Oktober und tauscht den kaputten Apparat.",
    ),
    "es": (
        "Por favor, espere un momento y tenga a mano el contrato y la tarjeta.",
        "El tren de las cuatro y cuarto parte del otro lado de la plaza.",
    ),
    "fr": (
        "Appuyez sur la touche quatre pour parler avec un conseiller technique.",
        "Le paquet part demain et doit arriver avant la date que vous avez indiquée.",
    ),
    "it": ("Per parlare con un operatore, aspetti dopo il tono e tenga pronto il codice cliente.",),
}
VARIANTS = ("", "+m3", "+m7", "+f2", "+f4")
WORDS_PER_MINUTE = (130, 200)
PITCHES = (30, 70)


def synthesizer() -> str | None:
    """Return the path of espeak-ng, or None if it is not installed."""
    return shutil.which("espeak-ng") or shutil.which("espeak")


@lru_cache(maxsize=4096)
def _spoken(voice: str, speed: int, pitch: int, sentence: str) -> tuple[bytes, int]:
    program = synthesizer()
    if program is None:
        raise SystemExit("expected espeak-ng, found none: install it (apt-get install espeak-ng)")
    command = [program, "--stdout", "-v", voice, "-s", str(speed), "-p", str(pitch), sentence]
    wav = subprocess.run(command, check=True, capture_output=True).stdout
    samples, rate = soundfile.read(io.BytesIO(_with_sizes(wav)), dtype="float64")
    return np.asarray(samples, np.float64).tobytes(), int(rate)


def _with_sizes(wav: bytes) -> bytes:
    """Correct the sizes in the header, which espeak-ng cannot know when it writes to a pipe."""
    place = wav.index(b"data") + 4
    return (
        wav[:4] + (len(wav) - 8).to_bytes(4, "little") + wav[8:place]
        + (len(wav) - place - 4).to_bytes(4, "little") + wav[place + 4 :]
    )  # fmt: skip


def espeak(rng: np.random.Generator, seconds: float) -> Sound:
    """Speak sentences in one voice at one speed and pitch, up to a length, with the pauses that it makes itself."""
    language = sorted(SENTENCES)[rng.integers(len(SENTENCES))]
    voice = language + VARIANTS[rng.integers(len(VARIANTS))]
    speed, pitch = int(rng.integers(*WORDS_PER_MINUTE)), int(rng.integers(*PITCHES))
    parts: list[Float64] = []
    rate = 0
    while sum(map(len, parts)) < seconds * max(rate, 1):
        sentence = SENTENCES[language][rng.integers(len(SENTENCES[language]))]
        spoken, rate = _spoken(voice, speed, pitch, sentence)
        parts.append(np.frombuffer(spoken, np.float64))
    return Sound(np.concatenate(parts), rate)
