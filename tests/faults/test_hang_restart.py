"""A hanging engine in a separate process: the process reports it, exits in time, and the next one serves."""

from __future__ import annotations

import re
import signal
import subprocess
import time

import httpx
import pytest
from frail_server import started

from speech_qc.capacity.host import free_port
from speech_qc.exit_codes import FATAL
from speech_qc.server.watchdog import CHECK_S, Watchdog


@pytest.mark.slow
def test_a_process_whose_engine_hangs_is_not_ready_ends_and_the_next_one_serves(tmp_path):
    port = free_port()
    with started(tmp_path, port, EXIT_WHEN_DEAD_S="2") as server:
        assert server.inspect() == 200
        server.hang()
        assert server.inspect() == 503
        died_s = time.monotonic()
        assert server.readiness() == (503, "dead")
        assert httpx.get(f"{server.url}/health/live").status_code == 200
        assert server.ends() == FATAL
        assert time.monotonic() - died_s < 30
        assert "the engine is dead and was not replaced" in server.log()
    with started(tmp_path, port) as again:
        assert again.inspect() == 200


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps_in", "why"),
    [("thread", "the engine is dead and was not replaced"), ("loop", "the event loop is blocked")],
)
def test_a_worker_whose_engine_hangs_is_replaced(tmp_path, steps_in, why):
    settings = {"WORKERS": "2", "STEPS_IN": steps_in, "EXIT_WHEN_DEAD_S": "0.5"}
    with started(tmp_path, free_port(), **settings) as server:
        server.until(lambda: "2 workers listen" in server.log(), "both workers")
        before = served(server.log())
        server.hang()
        assert server.inspect() != 200
        server.until(lambda: len(served(server.log())) == 3, "a third process serves")
        said = server.log()
        assert why in said
        assert re.search(rf"worker (\d) \(process \d+\) ended with exit code {FATAL}; restarting it in", said)
        assert before < served(said)
        assert server.process.poll() is None
        assert {server.inspect() for _ in range(4)} == {200}
        server.process.send_signal(signal.SIGTERM)
        assert server.ends() == 0


def served(log: str) -> set[str]:
    """Return the process IDs of the workers that have served."""
    return set(re.findall(r"worker \d \(process (\d+)\) is ready", log))


@pytest.mark.slow
def test_without_an_end_in_the_settings_a_process_stays_and_is_not_ready(tmp_path):
    with started(tmp_path, free_port(), EXIT_WHEN_DEAD_S="0") as server:
        server.hang()
        assert server.inspect() == 503
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(3)
        assert server.readiness() == (503, "dead")
        server.process.send_signal(signal.SIGINT)  # and can be stopped, although one of its threads hangs
        assert server.ends() == FATAL


class Watched:
    """A watchdog with a manual clock; records whether it would have ended the process."""

    def __init__(self, limit_s: float) -> None:
        self.now_s, self.ended = 100.0, False
        self.dog = Watchdog(limit_s, clock=lambda: self.now_s, end=self._end)
        self.dog.beat()
        self.dog.stop()  # the watchdog's thread; the test calls the check directly

    def _end(self) -> None:
        self.ended = True

    def after(self, seconds: float) -> bool:
        for _ in range(round(seconds / CHECK_S)):
            self.now_s += CHECK_S
            self.dog.check()
        return self.ended


def test_a_loop_that_is_late_lives_and_one_that_stands_still_does_not(caplog):
    watched = Watched(10.0)
    for _ in range(5):
        assert not watched.after(9)
        watched.dog.beat()
    assert watched.after(10)
    assert "test_a_loop_that_is_late" in caplog.text, "the log says where it stands"


def test_a_shutdown_may_take_the_time_it_asks_for():
    watched = Watched(10.0)
    watched.dog.beat(100.0)
    assert not watched.after(99)
    assert watched.after(1)


def test_a_process_that_was_stopped_as_a_whole_goes_on():
    watched = Watched(10.0)
    watched.now_s += 3600
    watched.dog.check()
    assert not watched.after(9)
    assert watched.after(1)
