"""A server process whose device can be made to hang: python hanging_server.py SWITCH [CHANNEL WORKER].

A step that starts while the file SWITCH exists removes the file and hangs indefinitely, so the next process with the
same command works. `serve` starts the server as users do; with several workers, the parent starts this file for each.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import speech_qc.server.server as stream_server
from speech_qc.cli import worker
from speech_qc.cli.main import main
from speech_qc.cli.seams import Seams
from speech_qc.engine import EchoRunner
from speech_qc.pipeline import factory
from speech_qc.settings import Settings
from speech_qc.workers import Supervisor

SWITCH = Path(sys.argv[1])


class Hanging(EchoRunner):
    def run(self, features, state):
        if SWITCH.exists():
            SWITCH.unlink()
            while True:
                time.sleep(60)
        return super().run(features, state)


def make_runner(_: Settings) -> Hanging:
    return Hanging(lookahead_frames=2)


def supervise(settings: Settings) -> int:
    return Supervisor(settings, [sys.executable, "-P", __file__, str(SWITCH)]).run()


if __name__ == "__main__":
    stream_server.LEAST_LIMIT_S = 1.0  # type: ignore[attr-defined]  # the step deadline of the test counts
    if len(sys.argv) > 2:
        factory.make_runner = make_runner  # type: ignore[assignment]  # another kind of runner
        sys.exit(worker.main(int(sys.argv[2])))
    sys.exit(main(["serve"], seams=Seams(make_runner=make_runner, supervise=supervise)))
