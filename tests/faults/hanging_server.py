"""A server whose device can be made to hang, as a process: python hanging_server.py SWITCH [CHANNEL WORKER].

A step that begins while there is a file SWITCH takes that file away and hangs for ever, so that the next process of the
same command is sound. `serve` starts it as its users do; with several workers the parent starts this file for each.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import service.api.stream_server as stream_server
from service import assembly
from service.cli import main
from service.commands import worker
from service.commands.seams import Seams
from service.engine import EchoRunner
from service.settings import Settings
from service.workers import Supervisor

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
    stream_server.LEAST_LIMIT_S = 1.0  # the step deadline of the test counts
    if len(sys.argv) > 2:
        assembly.make_runner = make_runner
        sys.exit(worker.main(int(sys.argv[2])))
    sys.exit(main(["serve"], seams=Seams(make_runner=make_runner, supervise=supervise)))
