"""`speech-qc archive export`: write results for other tools."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from speech_qc.cli.archive import explained
from speech_qc.cli.files import replaced_when_complete
from speech_qc.cli.seams import CommandError
from speech_qc.exit_codes import OK

if TYPE_CHECKING:
    from speech_qc.archive.exports import Recording


@dataclass(frozen=True, slots=True)
class ExportCommand:
    """The options of the command; see the help texts in `cli.archive_commands`."""

    results: str
    form: str
    out: Path | None = None
    statuses: Sequence[str] = ()
    root: str | None = None
    url: str | None = None


def export(command: ExportCommand) -> int:
    """Write the results in another format.

    Raises:
        CommandError: The options contradict each other, or something cannot be read or written.
    """
    if (command.root is None) != (command.url is None):
        raise CommandError("--root and --url: expected both or neither: the URL stands for the folder")
    if command.root is not None and command.form != "label-studio":
        raise CommandError(f"--root and --url are for --format label-studio, not {command.form}: leave them out")
    with explained():
        from speech_qc.archive.dest import Destination
        from speech_qc.archive.exports import recordings, selected, to_label_studio, to_nemo

        with Destination(command.results, writable=False) as destination:
            found = selected(recordings(destination), command.statuses)
            try:
                if command.form == "nemo":
                    _write(to_nemo(found), command.out)
                elif command.form == "label-studio":
                    _write(to_label_studio(found, command.root, command.url), command.out)
                else:
                    _write_tracks(found, command)
            except BrokenPipeError:
                raise
            except OSError as error:
                raise CommandError(f"cannot write the export: {error}") from error
    return OK


def _write(pieces: Iterator[bytes], out: Path | None) -> None:
    if out is None:
        sys.stdout.flush()
        for piece in pieces:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return
    with replaced_when_complete(out) as draft, draft.open("xb") as file:
        file.writelines(pieces)


def _write_tracks(found: Iterator[Recording], command: ExportCommand) -> None:
    from speech_qc.archive.exports import write_tracks

    if command.out is None:
        raise CommandError(f"--format {command.form} writes a file per recording: add --out with a folder for them")
    written, failed = write_tracks(found, command.form, command.out)
    skipped = f"; {failed} recordings have none, because they could not be inspected" if failed else ""
    sys.stderr.write(f"{command.out}: {written} files{skipped}\n")
