"""Kaldi data folders: `wav.scp`, and if they exist `segments`, `reco2file_and_channel`, `utt2spk` and `text`.

Commands (`sph2pipe … |`) are refused, since a manifest must not run programs. Files in an archive (`wav.ark:16`) are
read.

Source: Kaldi documentation, "Data preparation".
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

from speech_qc.archive.items import ArchiveError, Item
from speech_qc.archive.sources.files import (
    beside,
    checked_items,
    ends_with,
    exists,
    folder_of,
    open_binary,
    resolved,
    seconds,
    stamp,
    text_lines,
)

RIFF_HEADER_BYTES = 8
CHANNELS = {"A": 0, "B": 1}
"""Sides of a telephone call in `reco2file_and_channel`."""


class KaldiData:
    """Source: the utterances of a data folder; its `segments`, or whole recordings without that file.

    Args:
        path: The folder, or its `wav.scp`. Other files are read from the same folder; they become the columns
            `utterance`, `recording`, `speaker` and `text`.
    """

    opener: str | None = "speech_qc.archive.sources.kaldi:open_recording"

    def __init__(self, path: str) -> None:
        self._scp = path if ends_with(path, ".scp") else beside(path, "wav.scp")
        self._folder = folder_of(self._scp)

    def items(self) -> Iterator[Item]:
        """List utterances in the order of `segments`, or of `wav.scp`."""
        speakers, texts = self._table("utt2spk"), self._table("text")
        segments = self._beside("segments")
        if not exists(segments):
            return checked_items(
                self._scp,
                partial(text_lines, self._scp),
                lambda line: [self._whole(*_recording(line), speakers, texts)],
            )
        recordings: dict[str, str] = {}
        problems = []
        for number, line in text_lines(self._scp):
            try:
                name, path = _recording(line)
                recordings[name] = path
            except ValueError as error:
                problems.append(f"line {number}: {error}")
        if problems:
            raise ArchiveError(f"{self._scp}: {'; '.join(problems[:5])}")
        channels = self._channels()
        return checked_items(
            segments,
            partial(text_lines, segments),
            lambda line: [self._segment(line, recordings, channels, speakers, texts)],
        )

    def _beside(self, name: str) -> str:
        return beside(self._folder, name)

    def _table(self, name: str) -> dict[str, str]:
        """Read a file of keys and values, with any white space between them; empty if it does not exist."""
        path = self._beside(name)
        if not exists(path):
            return {}
        fields = (line.split(maxsplit=1) for _, line in text_lines(path))
        return {key: value[0] if value else "" for key, *value in fields}

    def _channels(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for recording, value in self._table("reco2file_and_channel").items():
            side = value.split()[-1].upper() if value else ""
            if side not in CHANNELS:
                raise ArchiveError(
                    f"{self._beside('reco2file_and_channel')}: expected channel A or B for {recording}, got {value!r}"
                )
            found[recording] = CHANNELS[side]
        return found

    def _whole(self, name: str, path: str, speakers: dict[str, str], texts: dict[str, str]) -> Item:
        return self._item(name, name, path, None, None, None, speakers, texts)

    def _segment(
        self,
        line: str,
        recordings: dict[str, str],
        channels: dict[str, int],
        speakers: dict[str, str],
        texts: dict[str, str],
    ) -> Item:
        fields = line.split()
        if len(fields) != 4:
            raise ValueError(f"expected utterance, recording, start and end, got {line!r}")
        utterance, recording = fields[:2]
        if recording not in recordings:
            raise ValueError(f"expected a recording of wav.scp, got {recording!r}")
        start_s, end_s = float(fields[2]), float(fields[3])
        if end_s == -1:  # to the end of the recording
            length_s = None
        elif end_s > start_s:
            length_s = seconds(round(end_s - start_s, 6), "length")
        else:
            raise ValueError(f"expected an end after the start, got {fields[2]} to {fields[3]}")
        seconds(start_s, "start")
        channel = channels.get(recording)
        path = recordings[recording]
        return self._item(utterance, recording, path, start_s, length_s, channel, speakers, texts)

    def _item(
        self,
        utterance: str,
        recording: str,
        path: str,
        start_s: float | None,
        length_s: float | None,
        channel: int | None,
        speakers: dict[str, str],
        texts: dict[str, str],
    ) -> Item:
        columns = {"utterance": utterance, "recording": recording}
        columns |= {"speaker": speakers[utterance]} if utterance in speakers else {}
        columns |= {"text": texts[utterance]} if utterance in texts else {}
        uri = resolved(path, self._folder)
        archive, offset = _split_ark(uri)
        etag = None
        if offset is not None:
            try:
                etag = stamp(archive)
            except OSError as error:
                raise ValueError(str(error)) from error
        return Item(uri, start_s, length_s, channel, columns, etag)


def open_recording(uri: str) -> BinaryIO:
    """Open a file, or the WAV file within an archive (`wav.ark:16`); runs in worker processes.

    Raises:
        OSError: It cannot be read, or is not a WAV file.
    """
    path, offset = _split_ark(uri)
    if offset is None:
        return open_binary(path)
    with open_binary(path) as file:
        file.seek(offset)
        header = file.read(RIFF_HEADER_BYTES)
        if header[:4] != b"RIFF":
            raise OSError(f"expected a WAV file at byte {offset} of {path}, got {header[:4]!r}")
        size = int.from_bytes(header[4:], "little")
        return io.BytesIO(header + file.read(size))


def _split_ark(uri: str) -> tuple[str, int | None]:
    path, colon, offset = uri.rpartition(":")
    return (path, int(offset)) if colon and path.endswith(".ark") and offset.isdecimal() else (uri, None)


def _recording(line: str) -> tuple[str, str]:
    fields = line.split(maxsplit=1)
    if len(fields) != 2:
        raise ValueError(f"expected a name and a path, got {line!r}")
    if fields[1].startswith("|") or fields[1].endswith("|"):
        raise ValueError(f"expected the path of a recording, got the command {fields[1]!r}: write its output to a file")
    return fields[0], fields[1]
