"""The program of one worker process; `speech-qc serve --workers` starts it, nobody else does."""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING

from speech_qc.exit_codes import ERROR, FOUND, OK
from speech_qc.gc_tuning import collect_seldom

if TYPE_CHECKING:  # imported when the collector has been told, which is for the sake of imports
    from speech_qc.workers import Job, Member


def main(descriptor: int) -> int:
    """Serve until the parent says otherwise.

    Args:
        descriptor: This worker's end of the channel.

    Returns:
        The exit code.
    """
    collect_seldom()
    from speech_qc.errors import StartupError
    from speech_qc.workers import Job, Member

    end = socket.socket(fileno=descriptor)
    job = Job.receive(end)
    if job is None:
        return FOUND
    member = Member(end, job.worker, job.workers)
    try:
        _serve(job, member)
    except StartupError as error:
        member.fail(error)
        return ERROR
    return OK


def _serve(job: Job, member: Member) -> None:
    from speech_qc.app import create_app
    from speech_qc.cli.serve import server_options
    from speech_qc.pipeline.factory import make_runner
    from speech_qc.server.worker import WorkerServer
    from speech_qc.telemetry.logging import configure_logging
    from speech_qc.workers import ConnectionReceiver

    settings = job.settings
    configure_logging(settings, job.worker)
    app = create_app(settings, make_runner(settings), member=member)
    taker = ConnectionReceiver(socket.socket(fileno=job.handover))
    WorkerServer(app, member, taker, **server_options(settings)).run()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
