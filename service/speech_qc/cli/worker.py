"""The program of one worker process; `speech-qc serve --workers` starts it, nobody else does."""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING

from service.collecting import collect_seldom

if TYPE_CHECKING:  # imported when the collector has been told, which is for the sake of imports
    from service.workers import Job, Member


def main(descriptor: int) -> int:
    """Serve until the parent says otherwise.

    Args:
        descriptor: This worker's end of the channel.

    Returns:
        The exit code.
    """
    collect_seldom()
    from service.errors import StartupError
    from service.workers import Job, Member

    end = socket.socket(fileno=descriptor)
    job = Job.receive(end)
    if job is None:
        return 1
    member = Member(end, job.worker, job.workers)
    try:
        _serve(job, member)
    except StartupError as error:
        member.fail(error)
        return 2
    return 0


def _serve(job: Job, member: Member) -> None:
    from service.api.worker_server import WorkerServer
    from service.app import create_app
    from service.assembly import make_runner
    from service.commands.serving import server_options
    from service.logs import configure_logging
    from service.workers import Taker

    settings = job.settings
    configure_logging(settings, job.worker)
    app = create_app(settings, make_runner(settings), member=member)
    taker = Taker(socket.socket(fileno=job.handover))
    WorkerServer(app, member, taker, **server_options(settings)).run()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
