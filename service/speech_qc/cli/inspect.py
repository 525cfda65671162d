"""The `inspect` command: find recordings, inspect each, write the results and a summary line.

Results go to standard output or to files, everything else to standard error. An error in one recording does not stop
the others.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from speech_qc.audio.raw_format import parse_channels, raw_format
from speech_qc.cli.answers import Answerer, Document, LocalAnswerer, answers_in_order
from speech_qc.cli.api_key_option import api_key_for
from speech_qc.cli.files import (
    Found,
    InputFile,
    find_sources,
    pipes_copied,
    replaced_when_complete,
    result_names,
    write_file,
)
from speech_qc.cli.formats import ONE_FILE_ONLY, export_bytes, extension, json_bytes, with_file_column
from speech_qc.cli.options import COUNTED, Format, InspectCommand, InspectFailOn
from speech_qc.cli.seams import CommandError, Seams
from speech_qc.cli.tables import (
    SCORES_MAX_S,
    RunTable,
    detail,
    frame_lines,
    output_console,
    rendered,
    tally,
    without_padding,
)
from speech_qc.embedded.detector import Detector
from speech_qc.errors import SpeechQCError
from speech_qc.exit_codes import ERROR, FOUND, OK
from speech_qc.settings import load_settings

WORKERS = 4
"""Recordings inspected concurrently: enough to decode one while a chunk of another is scored."""


def inspect(options: InspectCommand, seams: Seams) -> int:
    """Run the command.

    Returns:
        The exit code.

    Raises:
        CommandError: The options contradict each other, the key or a pipe cannot be read, or a result cannot be
            written.
        SpeechQCError: Nothing can be inspected: there is no model, or no such profile.
        BrokenPipeError: The reader of standard output has closed the pipe.
    """
    with pipes_copied(options.files) as copies:
        return _inspect(options, find_sources(options.files, copies), seams)


def _inspect(options: InspectCommand, found: Found, seams: Seams) -> int:
    notes = Console(stderr=True, highlight=False, soft_wrap=True)
    _check(options, found)
    api_key = api_key_for(options.api_key_file, url=options.url)
    for message in found.missing:
        notes.print(Text(f"error: {message}"))
    if found.skipped:
        notes.print(Text(found.skipped_message()))
    if not found.sources:
        return ERROR
    try:
        run = Run(options, found, notes, api_key)
        asyncio.run(run.inspect_all(seams))
        run.close()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CommandError(f"cannot write a result: {error}") from error
    return run.exit_code


def _check(options: InspectCommand, found: Found) -> None:
    """Reject invalid combinations of options before minutes of work."""
    if options.url and (options.model or options.device):
        raise CommandError("--model and --device apply to local inspection: omit them with --url")
    if InspectFailOn.never in options.fail_on and len(options.fail_on) > 1:
        raise CommandError("--fail-on: expected 'never' alone, got it with others: leave out one of them")
    if options.scores and options.form not in (Format.table, Format.csv):
        raise CommandError(
            f"--scores needs --format table or csv; --format {options.form} "
            + ("contains the scores anyway" if options.form in (Format.json, Format.jsonl) else "cannot contain scores")
        )
    if options.scores and options.form is Format.table and found.several and options.out is None:
        raise CommandError("--scores prints one recording: for several, use --format csv or --out DIR")
    shows = options.form in (Format.json, Format.jsonl, Format.table)
    if options.question.show_digits and options.url is not None:
        raise CommandError("--show-digits: with --url, the server's setting SPEECHQC_SHOW_DIGITS decides")
    if options.question.explain and options.plot is None and not shows:
        raise CommandError(f"--explain is not available with --format {options.form}: use json, jsonl, table or --plot")
    if options.question.legs is not None and not shows:
        raise CommandError(f"--legs is not available with --format {options.form}: use json, jsonl or table")
    if options.form in ONE_FILE_ONLY and found.several and options.out is None:
        raise CommandError(f"--format {options.form} supports one recording per file: for several, add --out DIR")
    if options.out is not None:
        try:
            options.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CommandError(f"--out: expected a writable folder, got {options.out}: {error}") from error
    if options.plot is not None:
        from speech_qc.cli.plot import check_available

        check_available(options.plot)
        if not options.plot.parent.is_dir():
            raise CommandError(f"--plot: the folder {options.plot.parent} does not exist: create it first")


class Run:
    """One run of the command: collects the results and writes them.

    Args:
        options: Options of the command.
        found: The recordings.
        notes: Console on standard error.
        api_key: Key for the server, if one is used.
    """

    def __init__(self, options: InspectCommand, found: Found, notes: Console, api_key: str | None = None) -> None:
        self._options, self._found, self._notes, self._api_key = options, found, notes, api_key
        self._stdout = output_console(sys.stdout)
        self._statuses: list[str] = []
        self._errors = len(found.missing)
        self._table = RunTable()
        self._written = 0
        self._targets: dict[Path, Path] = {}
        if options.out is not None:
            names = result_names(found.sources, extension(options.form))
            self._targets = {s.path: options.out / name for s, name in zip(found.sources, names, strict=True)}

    @property
    def exit_code(self) -> int:
        """The exit code for the results so far; an error takes precedence over a verdict."""
        if self._errors:
            return ERROR
        causes = self._options.fail_on
        skipped = InspectFailOn.skipped in causes and bool(self._found.skipped)
        return FOUND if skipped or any(COUNTED[cause].intersection(self._statuses) for cause in causes) else OK

    async def inspect_all(self, seams: Seams) -> None:
        """Inspect every recording and deliver the results in order."""
        sources = self._found.sources
        workers = min(WORKERS, len(sources))
        async with AsyncExitStack() as stack:
            answerer = await stack.enter_async_context(await asyncio.to_thread(self._answerer, seams))
            advance = stack.enter_context(self._progress(len(sources)))
            answers = await stack.enter_async_context(aclosing(answers_in_order(sources, answerer.inspect, workers)))
            number = 0
            async for source, answer in answers:
                number += 1
                if isinstance(answer, Exception):
                    self._note_error(source, answer)
                else:
                    await self._deliver_or_note(source, number, answer)
                advance()

    def close(self) -> None:
        """Write the end of the results, and the tally."""
        options = self._options
        if options.form is Format.json and self._found.several and options.out is None:
            _emit([b"\n]\n" if self._written else b"[]\n"])
        if len(self._table):
            self._show(self._table.shown(self._stdout.width))
        if self._found.several or self._targets:
            self._notes.print(Text(tally(self._statuses, self._errors, len(self._found.skipped))))

    def _answerer(self, seams: Seams) -> Answerer:
        options = self._options
        question = replace(options.question, frames=self._wants_frames())
        if options.url:
            from speech_qc.cli.remote import RemoteAnswerer

            return RemoteAnswerer(options.url, question, self._api_key, seams.transport)
        settings = load_settings(model_path=options.model, device=options.device)
        return LocalAnswerer(Detector(settings, seams.make_runner(settings)), question)

    def _wants_frames(self) -> bool:
        """Whether the output needs the scores of every frame."""
        options = self._options
        if options.plot is not None or options.scores:
            return True
        if options.form is Format.table:
            return not self._found.several or options.out is not None
        return options.question.frames and options.form in (Format.json, Format.jsonl)

    async def _deliver_or_note(self, source: InputFile, number: int, answer: Document) -> None:
        """Deliver in a thread, so that a picture that takes seconds does not delay other recordings."""
        try:
            await asyncio.to_thread(self._deliver, source, number, answer)
        except SpeechQCError as error:  # the file was changed or removed after its inspection, so it cannot be drawn
            self._note_error(source, error)

    def _deliver(self, source: InputFile, number: int, document: Document) -> None:
        """Write one result to its destination; called for one result at a time."""
        options = self._options
        if options.form not in (Format.json, Format.jsonl):  # these contain the warnings
            for warning in document.get("warnings", ()):
                self._notes.print(Text(f"warning: {source.name}: {warning['message']}"))
        if options.plot is not None:
            self._draw(source, number, document, options.plot)
            if not options.question.frames and options.form in (Format.json, Format.jsonl):
                for channel in document["channels"]:
                    channel.pop("frames", None)
        target = self._targets.get(source.path)
        if target is not None:
            write_file(target, self._alone(source, document))
        elif options.form is Format.table and self._found.several:
            self._table.add(source, document)
        elif options.form is Format.table:
            self._print_detail(source, document)
        else:
            _emit(self._among_others(source, document) if self._found.several else self._alone(source, document))
        self._written += 1
        self._statuses.extend(channel["verdict"]["status"] for channel in document["channels"])

    def _alone(self, source: InputFile, document: Document) -> Iterator[bytes]:
        """Render the result of one recording as a complete file."""
        options = self._options
        if options.form is Format.table:
            yield rendered(detail(source, document, 120))
            if options.scores:
                yield from (f"{line}\n".encode() for line in frame_lines(document))
        elif options.form in (Format.json, Format.jsonl):
            yield json_bytes(source, document) + b"\n"
        else:
            yield from export_bytes(options.form, source, document, scores=options.scores)

    def _among_others(self, source: InputFile, document: Document) -> Iterator[bytes]:
        """Render the result of one recording as part of the output for several."""
        alone = self._alone(source, document)
        first = self._written == 0
        if self._options.form is Format.json:
            return chain([b"[\n" if first else b",\n"], (chunk.rstrip(b"\n") for chunk in alone))
        if self._options.form is Format.csv:
            return with_file_column(source, alone, header=first)
        return alone

    def _print_detail(self, source: InputFile, document: Document) -> None:
        console, scores = self._stdout, self._options.scores
        if scores and document["audio"]["duration_s"] > SCORES_MAX_S:
            raise CommandError(
                f"--scores prints recordings of up to {SCORES_MAX_S:g} s: for longer ones, use --format csv --scores"
            )
        if scores:  # hundreds of lines: print them first, so that the result stays visible on the screen
            _emit(f"{line}\n".encode(console.encoding, "replace") for line in (*frame_lines(document), ""))
        self._show(detail(source, document, console.width, ascii_only=console.options.ascii_only))

    def _draw(self, source: InputFile, number: int, document: Document, picture: Path) -> None:
        """Draw every channel of a recording; file names get a number per recording and a suffix per channel."""
        from speech_qc.cli.plot import plot_channel

        count = len(document["channels"])
        question = self._options.question
        given, mode = parse_channels(question.channels)
        raw = raw_format(question.encoding, question.sample_rate, given)
        stem = f"{picture.stem}-{number}" if self._found.several else picture.stem
        for position, channel in enumerate(document["channels"]):
            name = f"{stem}-ch{channel['channel']}" if count > 1 else stem
            target = picture.with_name(name + picture.suffix)
            with replaced_when_complete(target) as draft:
                plot_channel(source.path, document, position, draft, mix=mode == "mix", raw=raw)
            self._notes.print(Text(f"{target}: {source.name}" + (f", channel {position}" if count > 1 else "")))

    def _note_error(self, source: InputFile, error: Exception) -> None:
        self._errors += 1
        message = error.message if isinstance(error, SpeechQCError) else str(error)
        self._notes.print(Text(f"error: {source.name}: {message}"))

    @contextmanager
    def _progress(self, total: int) -> Iterator[Callable[[], None]]:
        """Show a progress bar on standard error, if that is a terminal and results are not printed to it as well."""
        streams = self._options.form is not Format.table and self._options.out is None
        if total < 2 or not self._notes.is_terminal or (streams and self._stdout.is_terminal):
            yield lambda: None
            return
        columns = (TextColumn("inspecting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._notes, transient=True) as progress:
            task = progress.add_task("inspecting", total=total)
            yield lambda: progress.advance(task)

    def _show(self, renderable: RenderableType) -> None:
        """Print to the terminal, through a string, since rich would exit the process on a closed pipe."""
        with self._stdout.capture() as capture:
            self._stdout.print(renderable)
        _emit([without_padding(capture.get()).encode(self._stdout.encoding, "replace")])


def _emit(chunks: Iterable[bytes]) -> None:
    """Write bytes to standard output, independent of the terminal's encoding: JSON and the exports are UTF-8."""
    sys.stdout.flush()
    stream = sys.stdout.buffer
    for chunk in chunks:
        rest = memoryview(chunk)
        while rest:  # if unbuffered (`python -u`), a pipe may accept only a part
            rest = rest[stream.write(rest) :]
    stream.flush()
