"""The unit of work of every engine: a table of items in, a table of rows out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from speech_qc.archive.asked import Asked
from speech_qc.archive.opening import Checksums, RecordingFile
from speech_qc.archive.parts import Part
from speech_qc.archive.rows import UNREADABLE, Identity, Row, as_table, channel_rows, error_row, failed_row
from speech_qc.audio import DecodeLimits
from speech_qc.embedded.detector import UNLIMITED_BYTES
from speech_qc.pipeline.documents import inspection_document, model_info
from speech_qc.pipeline.factory import check_default_profile, decode_limits, make_runner
from speech_qc.pipeline.recording import InspectOptions, RecordingFindings
from speech_qc.pipeline.together import WIDTH, Entry, Outcome, Queue, Together
from speech_qc.scoring import load_profiles
from speech_qc.settings import load_settings

AHEAD = WIDTH
"""Objects of a store that are fetched while those before them are inspected."""


class Inspector:
    """A loaded model that inspects batches; used by one thread.

    Args:
        asked: What is asked of every recording.

    Raises:
        StartupError: A setting is wrong, or the model cannot be loaded.
        ProtocolError: There is no such profile.
    """

    def __init__(self, asked: Asked) -> None:
        settings = load_settings(**asked.settings)
        profiles = load_profiles(settings.profiles_path)
        check_default_profile(settings, profiles)
        profile = asked.profile or settings.default_profile
        self._options = InspectOptions(
            profiles.get(profile),
            keep_frames=asked.frames,
            max_events=settings.max_events,
            show_digits=settings.show_digits,
        )
        self._limits = decode_limits(settings.model_copy(update={"max_upload_bytes": UNLIMITED_BYTES}))
        runner = make_runner(settings)
        self._model = model_info(runner)
        self._together = Together(runner, settings.max_channels)
        self._checksums = Checksums()
        self._threads = ThreadPoolExecutor(AHEAD, thread_name_prefix="fetch")
        self.identity = Identity(f"{self._model.name} {self._model.version}", self._model.sha256, profile)

    def prepare(self, items: pa.Table) -> Batch:
        """Begin to fetch the first recordings of a batch; any thread may call it while another batch is inspected.

        Args:
            items: Columns of `schema.ITEMS`; a recording of which there are several parts is decoded once.
        """
        asked: list[Row] = items.to_pylist()
        groups: dict[tuple[str, str | None], list[int]] = {}
        for number, item in enumerate(asked):
            if item["problem"] is None:
                groups.setdefault((item["uri"], item["opener"]), []).append(number)
        files = [_File(asked, numbers, self._limits, self._checksums) for numbers in groups.values()]
        for file in files[:AHEAD]:
            file.recording.fetch(self._threads)
        return Batch(asked, files)

    def inspect_batch(self, items: pa.Table) -> pa.Table:
        """Inspect a batch of items, several at a time; see `prepare` and `inspect`."""
        return self.inspect(self.prepare(items))

    def inspect(self, batch: Batch) -> pa.Table:
        """Inspect a batch.

        Returns:
            Columns of `schema.ROWS`: for each item, in order, a row per channel, or one row with `error`.

        Raises:
            Exception: The model failed, so for no fault of one recording.
        """
        asked, files = batch.asked, batch.files
        file_of = {number: file for file in files for number in file.numbers}
        rows = {
            number: [failed_row(item, UNREADABLE, item["problem"], self.identity)]
            for number, item in enumerate(asked)
            if item["problem"] is not None
        }
        for number, outcome in self._together.inspect(self._queues(files), self._options):
            rows[number] = self._rows(asked[number], file_of[number].parts.pop(number), outcome)
        for number, file in file_of.items():
            for row in rows[number]:
                row["content_sha256"] = file.sha256
        return as_table([row for number in range(len(asked)) for row in rows[number]])

    def _queues(self, files: Sequence[_File]) -> Iterator[Queue]:
        """Yield the files as queues, and fetch those that follow meanwhile."""
        for number, file in enumerate(files):
            for following in files[number : number + AHEAD]:
                following.recording.fetch(self._threads)
            yield file.recordings()

    def _rows(self, item: Row, part: Part, outcome: Outcome) -> list[Row]:
        if isinstance(outcome, Exception):
            return [error_row(item, outcome, self.identity)]
        try:
            return channel_rows(item, part.channels, self._document(outcome), self.identity)
        except Exception as error:  # a recording with values that nothing foresaw is a row, too
            return [error_row(item, error, self.identity)]

    def _document(self, found: RecordingFindings) -> Row:
        contract = self._together.runner.contract
        return inspection_document(
            found,
            contract,
            self._model,
            request_id="",
            profile=self.identity.profile,
            labels=contract.label_names,
            frames=self._options.keep_frames,
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch whose first recordings are being fetched.

    Args:
        asked: Rows of `schema.ITEMS`.
        files: What they are about.
    """

    asked: Sequence[Row]
    files: Sequence[_File]


class _File:
    """Items of a batch that are about the same recording.

    Args:
        items: All items of the batch.
        numbers: Which of them these are.
        limits: Limits on the recording.
        checksums: Those of recordings of which parts were inspected before.
    """

    def __init__(
        self, items: Sequence[Row], numbers: Sequence[int], limits: DecodeLimits, checksums: Checksums
    ) -> None:
        self._items, self._checksums = items, checksums
        self.numbers = sorted(numbers, key=lambda number: items[number]["offset_s"] or 0.0)
        first = items[self.numbers[0]]
        self.recording = RecordingFile(first["uri"], first["opener"], limits, several=len(numbers) > 1)
        self.parts: dict[int, Part] = {}
        """By number, from when its inspection begins."""
        self.sha256: str | None = None

    def recordings(self) -> Iterator[Entry]:
        """Yield the parts in ascending order; the file is open only between the first and the last."""
        file, several = self.recording, len(self.numbers) > 1
        try:
            for number in self.numbers:
                item = self._items[number]
                part = self.parts[number] = Part(file, item["offset_s"], item["length_s"], item["channel"])
                yield Entry(number, part, several and part.hold())
            self.sha256 = self._checksums.of(file, self._items[self.numbers[0]])
        finally:
            file.close()
