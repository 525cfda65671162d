"""One inference step over many sessions: gather state, make features, run, check, commit state.

Runs in the device thread. Must not know asyncio, the queue, or who waits for the scores.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from service.engine.entry import Lane
from service.engine.protocols import FloatArray, FrontEnd, Runner
from service.errors import InferenceError, InvalidAudio, StartupError


def batch_buckets(max_batch: int) -> list[int]:
    """List the batch sizes that may reach the runner: powers of two below `max_batch`, then itself."""
    return [*(1 << power for power in range((max_batch - 1).bit_length())), max_batch]


class StepScores(NamedTuple):
    """What came out of one step."""

    scores: FloatArray  # [B, T / hops_per_frame, C]
    good: npt.NDArray[np.bool_]  # [B]; False where a row is not finite: unusable, its state was left as it was
    features_s: float  # seconds of the step that went into features


class Stepper:
    """Owns the state of all sessions and turns waiting chunks into scores.

    `run` and `warm_up` belong to the device thread. `checked_copy` and `reset` belong to the event loop: the one
    touches nothing here, the other one row only, which the caller guarantees is in no running step.

    Args:
        runner: The model.
        front_end: Samples [B, n] to features [B, T, F].
        capacity: Sessions that can be open at the same time.
        max_batch: Most rows in one step.
        pad_to_bucket: Fill batches with zero rows up to the next warmed size.
    """

    def __init__(
        self, runner: Runner, front_end: FrontEnd, *, capacity: int, max_batch: int, pad_to_bucket: bool
    ) -> None:
        self._runner = runner
        self._front_end = front_end
        self._spec = runner.contract.features
        self._labels = len(runner.contract.labels)
        self._buckets = batch_buckets(max_batch)
        self._pad = pad_to_bucket
        self._state = np.zeros((capacity, runner.contract.state_size), np.float32)  # [capacity, S]

    def chunk_samples(self, lane: Lane) -> int:
        """Samples that one entry of the lane holds: its hops, and what the last window reaches beyond them."""
        return lane.hops * self._spec.hop_samples + self._spec.overlap_samples

    def reset(self, slot: int) -> None:
        """Give the slot the state of a stream that has heard nothing."""
        self._state[slot] = 0.0

    def checked_copy(self, samples: FloatArray, lane: Lane) -> FloatArray:
        """Copy a chunk once it has proved to be one; callers often pass a view of something they go on writing.

        Raises:
            ValueError: Not float32, or not as long as the lane's chunks.
            InvalidAudio: Samples are not finite.
        """
        expected = (self.chunk_samples(lane),)
        if samples.shape != expected or samples.dtype != np.float32:
            raise ValueError(
                f"lane {lane.name!r} takes float32 samples {expected}, given {samples.dtype} {samples.shape}"
            )
        if not np.isfinite(samples).all():  # one such chunk could fail the step of all its batch-mates
            raise InvalidAudio("expected finite samples in [-1, 1], the chunk holds NaN or infinity; send real audio")
        return samples.copy()

    def warm_up(self, lanes: Sequence[Lane]) -> None:
        """Try the front end on every lane and the runner on every (bucket, lane).

        Raises:
            StartupError: Something failed, or features have a shape the model does not take.
        """
        try:
            for lane in lanes:
                self._features(np.zeros((1, self.chunk_samples(lane)), np.float32), lane)
            self._runner.warm_up([(bucket, lane.hops) for lane in lanes for bucket in self._buckets])
        except Exception as error:
            raise StartupError(
                f"warm-up failed, so no audio could be scored: {type(error).__name__}: {error}; "
                "check that the model file fits this version of the service"
            ) from error

    def run(self, lane: Lane, slots: Sequence[int], samples: Sequence[FloatArray]) -> StepScores:
        """Score one chunk of each session in `slots` and advance their state.

        A row that is not finite is marked and its state kept, so that one broken stream does not take its
        batch-mates along; any other failure leaves the state of all of them untouched.

        Args:
            lane: The lane that all chunks are from.
            slots: Row of each session in the state array, no two the same.
            samples: One float32 chunk per slot, each `chunk_samples(lane)` long.

        Raises:
            InferenceError: The runner returned wrong shapes, or no row was finite.
            Exception: Whatever front end or runner raised.
        """
        count = len(slots)
        stacked = np.concatenate(samples).reshape(count, -1)  # [B, n]
        started_s = time.perf_counter()
        features = self._features(stacked, lane)  # [B, T, F]
        features_s = time.perf_counter() - started_s
        rows = np.asarray(slots)
        state = self._state[rows]  # [B, S], a copy
        if self._pad:
            padding = next(bucket for bucket in self._buckets if bucket >= count) - count
            features = np.pad(features, ((0, padding), (0, 0), (0, 0)))
            state = np.pad(state, ((0, padding), (0, 0)))
        scores, new_state = self._runner.run(features, state)
        expected = (len(state), lane.hops // self._spec.hops_per_frame, self._labels)
        if scores.shape != expected or new_state.shape != state.shape:
            raise InferenceError(
                f"expected scores {expected} and new_state {state.shape}, "
                f"the model returned {scores.shape} and {new_state.shape}; the file does not keep its contract"
            )
        scores, new_state = scores[:count], new_state[:count]
        good = np.asarray(np.isfinite(scores).all(axis=(1, 2)) & np.isfinite(new_state).all(axis=1))  # [B]
        if not good.any():
            raise InferenceError("the model returned scores or state that are not finite for every stream of the step")
        self._state[rows[good]] = new_state[good]  # the commit: after everything that can fail
        return StepScores(scores, good, features_s)

    def _features(self, samples: FloatArray, lane: Lane) -> FloatArray:
        """Call the front end and hold it to its shape, [B, T, F]."""
        features = self._front_end(samples)
        expected = (len(samples), lane.hops, self._spec.columns)
        if features.shape != expected or features.dtype != np.float32:
            raise InferenceError(
                f"expected features float32 {expected} from samples {samples.shape}, "
                f"the front end made {features.dtype} {features.shape}"
            )
        return features
