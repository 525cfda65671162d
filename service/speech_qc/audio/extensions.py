"""Names of files that hold recordings."""

from __future__ import annotations

from pathlib import Path

AUDIO_EXTENSIONS = frozenset({
    ".wav", ".wave", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".snd",
    ".caf", ".sph", ".nist", ".voc",
    ".webm", ".mka", ".mkv", ".m4a", ".m4b", ".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".aac", ".amr", ".awb", ".wma",
    ".asf", ".wmv", ".spx", ".avi", ".flv", ".ts", ".mpg", ".mpeg", ".mxf", ".ac3", ".eac3", ".wv", ".ape", ".tta",
    ".dss", ".ds2", ".qcp", ".ra", ".rm",
})  # fmt: skip
"""Extensions that are searched for in folders; other files there are recognised by their first bytes. A file that is
named explicitly is always tried."""


def looks_like_recording(path: Path) -> bool:
    """Whether a file in a folder is to be inspected: by its extension, otherwise by its first bytes."""
    if path.suffix.lower() in AUDIO_EXTENSIONS:
        return True
    from speech_qc.audio.decode import SIGNATURE_BYTES, is_recording  # decoders are seldom needed for this

    try:
        if not path.is_file():  # opening a pipe would wait for its writer
            return False
        with path.open("rb") as file:
            return is_recording(file.read(SIGNATURE_BYTES))
    except OSError:
        return False
