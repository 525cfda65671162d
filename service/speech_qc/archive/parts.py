"""Cuts the part of a recording that an item names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from speech_qc.archive.opening import KEPT_SAMPLES, RecordingFile
from speech_qc.audio import AudioInfo, AudioWarning
from speech_qc.errors import InvalidAudio
from speech_qc.pipeline.sources import Block


class Part:
    """A part of a recording as a source of blocks; iterated once.

    Args:
        file: The recording.
        offset_s: Start, seconds; None for the start of the recording.
        length_s: Length, seconds; None for all that follows.
        channel: The only channel to inspect; None for all.
    """

    def __init__(
        self, file: RecordingFile, offset_s: float | None, length_s: float | None, channel: int | None
    ) -> None:
        self._file, self._channel = file, channel
        self._offset_s, self._length_s = offset_s or 0.0, length_s
        self.channels: int | None = None
        """Channels of the recording; known with the first block."""
        self.info: AudioInfo | None = None
        """Properties of the part; known with the first block."""
        self._held: list[Block] | None = None
        self._held_error: Exception | None = None
        self._held_warnings: Sequence[AudioWarning] = ()
        self._warnings: list[AudioWarning] = []
        self._got = 0

    @property
    def warnings(self) -> Sequence[AudioWarning]:
        """What was wrong with the recording, as far as it was read for this part."""
        return [*(self._file.warnings if self._held is None else self._held_warnings), *self._warnings]

    def hold(self) -> bool:
        """Cut the part now if it is short, so that others of the recording can be cut while it is inspected.

        What goes wrong is raised when it is iterated.
        """
        held: list[Block] = []
        try:
            info = self._file.info()
            if self._length_s is None or self._length_s * info.sample_rate_hz * info.channels > KEPT_SAMPLES:
                return False
            held.extend(self._cut())
        except Exception as error:
            self._held_error = error
        self._held, self._held_warnings = held, tuple(self._file.warnings)
        return True

    def __iter__(self) -> Iterator[Block]:
        """Decode block by block.

        Raises:
            Exception: It cannot be opened or decoded, or the part is not in the recording.
        """
        if self._held is None:
            yield from self._cut()
            return
        yield from self._held
        self._held = []
        if self._held_error is not None:
            raise self._held_error

    def _cut(self) -> Iterator[Block]:
        info, channel = self._file.info(), self._channel
        self.channels = info.channels
        if channel is not None and not 0 <= channel < info.channels:
            raise InvalidAudio(f"expected a channel from 0 to {info.channels - 1}, got {channel}: correct the manifest")
        self.info = info if channel is None else replace(info, channels=1)
        start = round(self._offset_s * info.sample_rate_hz)
        wanted = None if self._length_s is None else round(self._length_s * info.sample_rate_hz)
        for block in self._file.blocks_from(start):
            taken = len(block) if wanted is None else min(len(block), wanted - self._got)
            self._got += taken
            if taken and channel is None:
                yield block[:taken]
            elif taken and channel is not None:
                yield np.ascontiguousarray(block[:taken, channel : channel + 1])
            if self._got == wanted:
                return
        self._check_end(info.sample_rate_hz, wanted)

    def _check_end(self, rate_hz: int, wanted: int | None) -> None:
        if self._got == 0 and self._offset_s:
            raise InvalidAudio(
                f"expected a part from {self._offset_s:g} s on, the recording ends before: correct the manifest"
            )
        if wanted is not None and self._got < wanted - rate_hz // 100:  # lengths are often rounded to 10 ms
            message = f"expected {self._length_s:g} s, the recording ends after {self._got / rate_hz:g} s of them"
            self._warnings.append(AudioWarning("samples_missing", message))
