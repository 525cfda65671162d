"""The program of one worker process; only `speech-qc serve --workers` starts it."""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING

from speech_qc.exit_codes import ERROR, OK, WORKER_FAILED
from speech_qc.gc_tuning import pause_collections, raise_gc_thresholds

if TYPE_CHECKING:  # imported in `main`, after garbage collection is tuned, which speeds up the imports
    from speech_qc.workers import Job, Member


def main(descriptor: int) -> int:
    """Serve until the parent stops this worker.

    Args:
        descriptor: This worker's end of the channel.

    Returns:
        The exit code.
    """
    raise_gc_thresholds()
    pause_collections()  # the server resumes them when it has started
    from speech_qc.audio.native_stderr import keep_stderr
    from speech_qc.errors import StartupError
    from speech_qc.workers import Job, Member

    keep_stderr()
    end = socket.socket(fileno=descriptor)
    job = Job.receive(end)
    if job is None:
        return WORKER_FAILED
    member = Member(end, job.worker, job.workers, results_file=job.results_file)
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
    receiver = ConnectionReceiver(socket.socket(fileno=job.handover))
    WorkerServer(app, member, receiver, **server_options(settings)).run()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
