"""How every command runs: its outcome becomes an exit code; and the options that several commands share."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from speech_qc.cli.seams import CommandError
from speech_qc.errors import SpeechQCError
from speech_qc.exit_codes import CLOSED_PIPE, ERROR, INTERRUPTED
from speech_qc.wire.vocabulary import Device

Model = Annotated[Path | None, typer.Option(help="Model file, instead of SPEECHQC_MODEL_PATH.", show_default=False)]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--api-key-file",
        help="File with the API key for the server, instead of SPEECHQC_API_KEY.",
        show_default=False,
    ),
]
On = Annotated[Device | None, typer.Option("--device", help="Where inference runs.", show_default=False)]


def run(command: Callable[[], int]) -> NoReturn:
    """Run a command and exit with its code; handle interrupts here, since the option parser treats them differently."""
    try:
        code = command()
    except BrokenPipeError:
        _drop_stdout()
        code = CLOSED_PIPE
    except KeyboardInterrupt:
        code = INTERRUPTED
    except (CommandError, SpeechQCError) as error:
        sys.stderr.write(f"error: {error}\n")
        code = ERROR
    raise typer.Exit(code)


@contextmanager
def quiet_log() -> Iterator[None]:
    """Keep the service's log off the terminal: the command reports each problem as one error message."""
    logger = logging.getLogger("speech_qc")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _drop_stdout() -> None:
    """Redirect standard output to the null device, so that the interpreter's final flush does not fail."""
    if isinstance(sys.stdout, TextIOWrapper):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
