"""External dependencies of the commands, which scripts and tests can replace."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `speech-qc --help` should not wait for ONNX Runtime, FastAPI and httpx
    import httpx

    from speech_qc.engine import Runner
    from speech_qc.settings import Settings


class CommandError(Exception):
    """The command failed; the message goes to standard error and the exit code is 2.

    Not part of the error tree of `speech_qc.errors`: the service never sends it to a client.
    """


def load_runner(settings: Settings) -> Runner:
    """Load the model file; see `speech_qc.pipeline.factory.make_runner`."""
    from speech_qc.pipeline.factory import make_runner

    return make_runner(settings)


def run_server(app: Any, **options: Any) -> None:
    """Serve until a signal; see `speech_qc.server.server.run_server`."""
    from speech_qc.server import server

    server.run_server(app, **options)


def supervise(settings: Settings) -> int:
    """Serve with several processes until a signal, and return the exit code; see `speech_qc.workers.Supervisor`."""
    from speech_qc.workers import Supervisor

    # -P: do not import a folder named `speech_qc` in the current directory instead of this package.
    return Supervisor(settings, [sys.executable, "-P", "-m", "speech_qc.cli.worker"]).run()


@dataclass(frozen=True, slots=True)
class Seams:
    """Replaceable dependencies of a command.

    Args:
        make_runner: Loads the model.
        transport: HTTP transport for requests to a server; None for the network.
        run_server: Runs an ASGI application; blocks.
        supervise: Runs several processes with these settings; blocks.
    """

    make_runner: Callable[[Settings], Runner] = load_runner
    transport: httpx.AsyncBaseTransport | None = None
    run_server: Callable[..., None] = run_server
    supervise: Callable[[Settings], int] = supervise
