"""One inference step over many sessions: gather state, compute features, run, check, commit state.

Runs in the device thread. Must not depend on asyncio, the queue, or the receivers of the scores.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from speech_qc.contract import FeatureSpec
from speech_qc.engine.protocols import FloatArray, FrontEnd, Lane, Model, ReadOut, Runner, StepScores, no_readings
from speech_qc.errors import InferenceError, StartupError

WARM_UP_HOPS = 2560
"""Most hops of one warm-up step if shapes need no preparation (25.6 s of sound); the largest step of uploads may have
ten times as many, and running it takes a quarter of a second of the start."""


def batch_buckets(max_batch: int) -> list[int]:
    """List the batch sizes that may reach the runner: powers of two below `max_batch`, then itself."""
    return [*(1 << power for power in range((max_batch - 1).bit_length())), max_batch]


def chunk_samples(lane: Lane, spec: FeatureSpec) -> int:
    """Return the number of samples in one entry of the lane: its hops and the overlap of the last window."""
    return lane.hops * spec.hop_samples + spec.overlap_samples


class Stepper:
    """Owns the state of all sessions and scores their chunks.

    `run` and `warm_up` are called in the device thread. `reset` is called in the event loop: it writes one row only,
    which the caller guarantees is not part of a running step.

    Args:
        runner: The model.
        front_end: Converts samples [B, n] to features [B, T, F].
        read_out: Computes one additional result per row from samples [B, n] and scores [B, T / hops_per_frame, C].
        capacity: Maximum number of open sessions.
        max_batch: Maximum rows in one step.
        pad_to_bucket: Pad batches with zero rows up to the next warmed size; by default if the runner has
            `fixed_shapes`.

    Raises:
        ValueError: A limit is below one.
    """

    def __init__(
        self,
        runner: Runner,
        front_end: FrontEnd,
        read_out: ReadOut = no_readings,
        *,
        capacity: int,
        max_batch: int,
        pad_to_bucket: bool | None = None,
    ) -> None:
        if min(capacity, max_batch) < 1:
            raise ValueError(f"{capacity=}, {max_batch=}: each must be above zero")
        self.model: Model = runner
        self.capacity, self.max_batch = capacity, max_batch
        self._runner = runner
        self._read_out = read_out
        self._front_end = front_end
        self._spec = runner.contract.features
        self._labels = len(runner.contract.labels)
        self._buckets = batch_buckets(max_batch)
        self._pad = runner.fixed_shapes if pad_to_bucket is None else pad_to_bucket
        self._state = np.zeros((capacity, runner.contract.state_size), np.float32)  # [capacity, S]

    def reset(self, slot: int) -> None:
        """Set the slot to the initial state of a new stream."""
        self._state[slot] = 0.0

    def warm_up(self, lanes: Sequence[Lane]) -> None:
        """Run the front end on every lane and the runner on the batches that it will get.

        With fixed shapes, these are all pairs of bucket and lane. Otherwise no shape needs preparation: the smallest
        and a large step of each lane, of at most `WARM_UP_HOPS`, show that the model runs, and allocate the memory of
        all but the largest steps of uploads. Batches that a lane cannot fill are skipped.

        Raises:
            StartupError: Something failed, or features have a shape that the model does not accept.
        """
        try:
            for lane in lanes:
                self._features(np.zeros((1, chunk_samples(lane, self._spec)), np.float32), lane)
            self._runner.warm_up([(batch, lane.hops) for lane in lanes for batch in self._batches(lane)])
        except Exception as error:
            raise StartupError(
                f"warm-up failed, so no audio can be scored: {type(error).__name__}: {error}; "
                "check that the model file matches this version of the service"
            ) from error

    def _batches(self, lane: Lane) -> list[int]:
        """Return the batch sizes to warm up, in ascending order."""
        most = min(self.max_batch, self.capacity, lane.most or self.max_batch)
        if not self._pad:
            return sorted({1, min(most, max(1, WARM_UP_HOPS // lane.hops))})
        return [bucket for bucket, below in zip(self._buckets, [0, *self._buckets], strict=False) if below < most]

    def run(self, lane: Lane, slots: Sequence[int], samples: Sequence[FloatArray] | FloatArray) -> StepScores:
        """Score one chunk of each session in `slots` and advance their state.

        A row that is not finite is marked and its state is left unchanged, so that a broken stream does not affect the
        others in the batch. Any other failure leaves the state of all sessions unchanged.

        Args:
            lane: The lane of all chunks.
            slots: Row of each session in the state array, all different.
            samples: One float32 chunk per slot, each `chunk_samples` long; an array [B, n] may be changed.

        Raises:
            InferenceError: The runner returned wrong shapes, or no row was finite.
            Exception: Any error that the front end or the runner raised.
        """
        count = len(slots)
        if isinstance(samples, np.ndarray):
            stacked = samples  # [B, n]
        else:
            stacked = samples[0][None] if count == 1 else np.concatenate(samples).reshape(count, -1)
        input_finite = np.asarray(np.isfinite(stacked).all(axis=1))  # [B]
        if not input_finite.all():
            stacked = np.where(input_finite[:, None], stacked, np.float32(0.0))
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
                f"expected scores {expected} and new_state {state.shape}, got {scores.shape} and {new_state.shape} "
                "from the model: its file does not match its contract"
            )
        scores, new_state = scores[:count], new_state[:count]
        good = np.asarray(np.isfinite(scores).all(axis=(1, 2)) & np.isfinite(new_state).all(axis=1))  # [B]
        if not good.any():
            raise InferenceError("expected finite scores and state, got NaN or infinity for every stream of the step")
        if not good.all():
            scores = np.where(good[:, None, None], scores, np.float32(0.0))
        readings = self._read_out(stacked, scores)
        good &= input_finite
        if good.all():
            self._state[rows] = new_state  # commit only after everything that can fail
        else:
            self._state[rows[good]] = new_state[good]
        return StepScores(scores, good, input_finite, readings, features_s)

    def _features(self, samples: FloatArray, lane: Lane) -> FloatArray:
        """Call the front end and check the shape of its result, [B, T, F]."""
        features = self._front_end(samples)
        expected = (len(samples), lane.hops, self._spec.columns)
        if features.shape != expected or features.dtype != np.float32:
            raise InferenceError(
                f"expected features float32 {expected} from samples {samples.shape}, "
                f"got {features.dtype} {features.shape} from the front end"
            )
        return features
