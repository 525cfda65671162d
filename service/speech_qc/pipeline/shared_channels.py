"""What the channels of one thread share, and what takes the scores of a step for all of them in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from speech_qc.contract import ModelContract
from speech_qc.engine import GroupResult
from speech_qc.pipeline.channel_meter import MeterPool
from speech_qc.pipeline.channel_rows import ChannelRows
from speech_qc.pipeline.channel_scores import Update
from speech_qc.pipeline.chunk_reader import ChunkReader, ChunkReading, ChunkReadings
from speech_qc.pipeline.session import Session
from speech_qc.scoring.events import EventUpdate
from speech_qc.scoring.rows import block_of, chosen


class Listener(Protocol):
    """A channel whose chunks the engine scores; see `speech_qc.engine.Member`."""

    session: Session
    text_only: bool
    """Whether frames as JSON are enough while no event begins or ends."""

    def told(self, text: list[bytes], frames: int, result: GroupResult, queue_s: float) -> None:
        """Take the next frames as JSON, one text per column."""

    def updated(self, update: Update, result: GroupResult, queue_s: float) -> None:
        """Take the next frames and events."""

    def failed(self, error: Exception) -> None:
        """Note that the scores could not be taken; the stream cannot continue."""


class SharedChannels:
    """What live channels share: rows, a pool of meters, and the step's results; used by one thread.

    Args:
        contract: The model's contract.
        reader: Reader of the same contract, which is the engine's `read_out`.
    """

    def __init__(self, contract: ModelContract, reader: ChunkReader) -> None:
        self.rows = ChannelRows(contract, reader.scores)
        self.meters = MeterPool()

    def deliver(self, members: Sequence[Listener], result: GroupResult) -> None:
        """Take the scores of a step: together where a chunk needs no care, else by its session."""
        readings: ChunkReadings = result.readings
        rows = np.array([member.session.scores.row for member in members])
        plain = self.rows.session.plain[rows]
        if plain.all():
            together = list(range(len(members)))
        else:
            together = np.flatnonzero(plain).tolist()
            for i in np.flatnonzero(~plain).tolist():
                place = result.places[i]
                reading = ChunkReading(block_of(readings.blocks, place), readings.levels_dbfs[place])
                try:
                    members[i].updated(members[i].session.accept(reading), result, result.queue_s[i])
                except Exception as error:
                    members[i].failed(error)
        if together:
            self._take(
                [members[i] for i in together],
                [result.places[i] for i in together],
                [result.queue_s[i] for i in together],
                result,
            )

    def _take(self, members: Sequence[Listener], places: list[int], queue_s: list[float], result: GroupResult) -> None:
        """Advance channels whose chunks need no care."""
        readings: ChunkReadings = result.readings
        blocks, levels = readings.blocks, readings.levels_dbfs
        if len(places) != len(blocks):
            blocks, levels = chosen(blocks, places), levels[places]
        channels = [member.session.scores for member in members]
        rows = np.array([channel.row for channel in channels])
        levels = self.rows.own_levels(rows, levels)
        news, changed = self.rows.advance(rows, channels, blocks, levels)
        frames = levels.shape[1]
        for i, (member, has_news) in enumerate(zip(members, news.tolist(), strict=True)):
            try:
                events: list[EventUpdate] = []
                if has_news:
                    events = channels[i].look(block_of(blocks, i), levels[i], changed=bool(changed[i]))
                text = blocks.texts[i]
                if member.text_only and not events and text is not None:
                    member.told(text, frames, result, queue_s[i])
                else:
                    first = channels[i].frames_done - frames
                    member.updated(Update(first, block_of(blocks, i), events), result, queue_s[i])
            except Exception as error:
                member.failed(error)
