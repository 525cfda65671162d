"""The program of one worker process; `speech-qc serve --workers` starts it, nobody else does."""

from __future__ import annotations

import socket
import sys

from service.errors import StartupError
from service.workers import Job, Member, bind_all


def main(descriptor: int) -> int:
    """Serve until the parent says otherwise.

    Args:
        descriptor: This worker's end of the channel.

    Returns:
        The exit code.
    """
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
    from service.api.stream_server import run_server
    from service.app import create_app
    from service.assembly import make_runner
    from service.commands.serving import server_options
    from service.logs import configure_logging

    settings = job.settings
    configure_logging(settings, job.worker)
    app = create_app(settings, make_runner(settings), member=member)
    inherited = [socket.socket(fileno=descriptor) for descriptor in job.descriptors]
    # Bound now, listened to when the model is warm: no connection ever waits for a worker that is not ready.
    sockets = inherited or bind_all(settings.host, settings.port, reuse_port=True)
    run_server(app, sockets=sockets, on_started=member.join, **server_options(settings))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
