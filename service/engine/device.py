"""The model in a process of its own, so that sockets and inference do not wait for each other's Python lock.

In one process, the event loop gives the lock away at every system call, and gets it back only when the NumPy calls of a
step allow: hundreds of switches per step, each of which costs more than the work between them. Here the device thread
of the engine sends a step's samples through a pair of sockets and sleeps until the scores come back. Messages are
pickled tuples; the pair is inherited, so nobody else can reach it, and its end tells each side that the other is gone.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from service.contract import ModelContract
from service.engine.protocols import DeviceLost, FloatArray, FrontEnd, Lane, ReadOut, Runner, StepScores
from service.engine.step import Stepper
from service.errors import InferenceError, SpeechQCError, StartupError

ROOT = Path(__file__).resolve().parents[2]
"""Folder that holds the package; the child must find the same one."""

EXIT_S = 5.0
"""Longest wait for the child's own end."""

Parts = tuple[Runner, FrontEnd, ReadOut]
MakeParts = Callable[[], Parts]
"""Builds in the child what a `Stepper` needs; must be picklable, such as a `functools.partial` of a function."""


@dataclass(frozen=True, slots=True)
class _Description:
    contract: ModelContract
    provider: str
    provider_fallback: bool
    sha256: str
    fixed_shapes: bool


class DeviceProcess:
    """A child process that has loaded a model; a `Model` to those who only describe it.

    Args:
        make: Builds the parts, in the child.

    Raises:
        StartupError: Whatever `make` raised, or the child ended without a word.
    """

    def __init__(self, make: MakeParts) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
            # -c and not -m: the package imports this module, and a module that is run must not be imported before.
            command = [sys.executable, "-c", f"from service.engine.device import serve; serve({theirs.fileno()})"]
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            )
        self._pipe: Connection[Any, Any] = Connection(ours.detach())
        self._asking = threading.Lock()
        described: _Description = self.ask(make)
        self.contract = described.contract
        self.provider = described.provider
        self.provider_fallback = described.provider_fallback
        self.sha256 = described.sha256
        self.fixed_shapes = described.fixed_shapes

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._process.pid

    def ask(self, message: Any) -> Any:
        """Send a message and wait for its answer.

        Raises:
            DeviceLost: The child is gone.
            StartupError: The child said so.
            InferenceError: Whatever else went wrong in the child.
        """
        with self._asking:
            try:
                self._pipe.send(message)
                answer = self._pipe.recv()
            except (EOFError, OSError) as error:
                raise DeviceLost(f"the device process {self._ended()}; restart the service") from error
        if isinstance(answer, _Failure):
            raise answer.error()
        return answer

    def close(self, *, at_once: bool) -> None:
        """End the child; one that works on its last message is given a moment unless `at_once`."""
        if at_once:
            self._process.kill()
        if self._asking.acquire(timeout=EXIT_S):  # a thread that waits for an answer owns the pipe
            self._asking.release()
        else:
            self._process.kill()
        self._pipe.close()
        try:
            self._process.wait(EXIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ended(self) -> str:
        try:
            code = self._process.wait(EXIT_S)
        except subprocess.TimeoutExpired:
            return "does not answer any more"
        return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):  # it may not have come that far
            self._pipe.close()  # the child ends by itself


@dataclass(frozen=True, slots=True)
class _Settings:
    """What the child's `Stepper` is built with."""

    lanes: tuple[Lane, ...]
    capacity: int
    max_batch: int
    pad_to_bucket: bool | None


@dataclass(frozen=True, slots=True)
class _StepRequest:
    lane: Lane
    slots: list[int]
    samples: FloatArray  # [B, n]
    resets: list[int]  # rows that belong to other streams since the last request


@dataclass(frozen=True, slots=True)
class _Failure:
    """What went wrong in the child."""

    kind: type[SpeechQCError]
    message: str
    detail: dict[str, Any]

    @classmethod
    def of(cls, error: Exception) -> _Failure:
        if isinstance(error, SpeechQCError):
            return cls(type(error), error.message, error.detail)
        return cls(InferenceError, f"{type(error).__name__}: {error}", {})

    def error(self) -> SpeechQCError:
        return self.kind(self.message, **self.detail)


class RemoteStepper:
    """Runs the steps of one engine in a `DeviceProcess`; see `Steps`.

    Args:
        process: Started; closed with this.
        capacity: Sessions that can be open at the same time.
        max_batch: Most rows in one step.
        pad_to_bucket: As for `Stepper`.
    """

    def __init__(
        self, process: DeviceProcess, *, capacity: int, max_batch: int, pad_to_bucket: bool | None = None
    ) -> None:
        self.model = process
        self.capacity, self.max_batch = capacity, max_batch
        self._pad = pad_to_bucket
        self._resets: list[int] = []

    def reset(self, slot: int) -> None:
        """Note that a row has a new owner; the child is told with the next step."""
        self._resets.append(slot)

    def warm_up(self, lanes: Sequence[Lane]) -> None:
        """Build the stepper and warm it up, in the child.

        Raises:
            StartupError: No step would succeed.
        """
        try:
            self.model.ask(_Settings(tuple(lanes), self.capacity, self.max_batch, self._pad))
        except DeviceLost as error:
            raise StartupError(str(error)) from error

    def run(self, lane: Lane, slots: Sequence[int], samples: Sequence[FloatArray]) -> StepScores:
        """Score one chunk of each row, in the child; see `Stepper.run`.

        Raises:
            DeviceLost: The child is gone.
            InferenceError: The step failed, the state is as before.
        """
        resets, self._resets = self._resets, []
        stacked = np.concatenate(samples).reshape(len(slots), -1)
        scores: StepScores = self.model.ask(_StepRequest(lane, list(slots), stacked, resets))
        return scores

    def close(self, *, at_once: bool) -> None:
        """End the child."""
        self.model.close(at_once=at_once)


def serve(descriptor: int) -> None:
    """Be the child: answer messages until the parent is gone.

    Args:
        descriptor: This side's end of the pair.
    """
    # The parent ends this process when nobody needs it any more; a signal to all must not do so before.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pipe: Connection[Any, Any] = Connection(descriptor)
    parts: Parts | None = None
    stepper: Stepper | None = None
    while True:
        try:
            message = pipe.recv()
        except (EOFError, OSError):
            return
        answer: Any = None
        try:
            if isinstance(message, _StepRequest):
                if stepper is None:
                    raise RuntimeError("a step before the warm-up")
                answer = _run(stepper, message)
            elif isinstance(message, _Settings):
                if parts is None:
                    raise RuntimeError("a warm-up before the model")
                runner, front_end, read_out = parts
                stepper = Stepper(
                    runner, front_end, read_out,
                    capacity=message.capacity, max_batch=message.max_batch, pad_to_bucket=message.pad_to_bucket,
                )  # fmt: skip
                stepper.warm_up(message.lanes)
            else:
                parts = message()
                answer = _describe(parts[0])
        except Exception as error:
            answer = _Failure.of(error)
        try:
            pipe.send(answer)
        except OSError:
            return
        except (pickle.PicklingError, TypeError, AttributeError) as error:  # what read_out made cannot travel
            pipe.send(_Failure.of(error))


def _run(stepper: Stepper, request: _StepRequest) -> StepScores:
    for slot in request.resets:
        stepper.reset(slot)
    return stepper.run(request.lane, request.slots, list(request.samples))


def _describe(runner: Runner) -> _Description:
    return _Description(runner.contract, runner.provider, runner.provider_fallback, runner.sha256, runner.fixed_shapes)
