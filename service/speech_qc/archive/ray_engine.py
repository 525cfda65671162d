"""The engine for a cluster: Ray Data distributes the batches, and this process keeps the rows.

Ray's own checkpoints are not used. What is done is read from the results, as with every engine, before anything is
given to Ray: no operator that filters competes with the workers for CPUs, and each batch is a block of its own, whose
rows arrive when it is done.

Source: Ray documentation, "Stateful transforms" and "Execution configurations" of Ray Data.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its vendor

import ray
import ray.data

from speech_qc.archive.asked import Asked
from speech_qc.archive.inspecting import Inspector
from speech_qc.archive.items import ArchiveError
from speech_qc.archive.local import LocalEngine
from speech_qc.archive.rows import Identity

WINDOW = 4_000
"""Batches that Ray holds at a time, so that the memory of the cluster's store does not grow with the archive."""
PASSED_ON = (
    "model_path", "profiles_path", "default_profile", "device", "intra_op_threads", "max_duration_s", "max_channels",
    "max_decoded_samples", "max_events", "show_digits",
)  # fmt: skip
"""Settings that change answers; the workers get those of this process."""


class BatchInspector:
    """An actor that inspects batches, in a process below it that a bad recording may crash.

    Otherwise such a recording would end the actor, and Ray would repeat its batch for ever.

    Args:
        asked: What is asked of every recording.
    """

    def __init__(self, asked: Asked) -> None:
        self._engine = LocalEngine(asked, workers=1)

    def __call__(self, items: pa.Table) -> pa.Table:
        """Inspect one batch; see `Inspector.inspect_batch`."""
        return pa.concat_tables(self._engine.run(iter([items])))


class RayEngine:
    """Inspects batches on the cluster of `RAY_ADDRESS`, or on one that it starts on this machine.

    Args:
        asked: What is asked of every recording.
        workers: Number of actors; None for one per CPU that the cluster has now (per GPU share, with `gpus`). More than
            fit at present make an autoscaling cluster grow.
        gpus: GPUs of each actor, also a fraction.

    Raises:
        ArchiveError: The cluster cannot be reached, or has no place for an actor.
        StartupError: A setting is wrong, or the model cannot be loaded.
    """

    def __init__(self, asked: Asked, workers: int | None = None, *, gpus: float = 0.0) -> None:
        # Only to know model and profile: this machine may lack the GPUs of the workers.
        self.identity: Identity = Inspector(replace(asked, settings={**asked.settings, "device": "cpu"})).identity
        self._asked = replace(asked, settings={**_settings_here(), **asked.settings})
        self._gpus = gpus
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            _connect()
        resources = ray.cluster_resources()
        places = resources.get("CPU", 0.0) if not gpus else min(resources.get("GPU", 0.0) / gpus, resources["CPU"])
        self._workers = workers or int(places)
        if self._workers < 1:
            self.close()
            raise ArchiveError(f"expected a cluster with CPUs{' and GPUs' if gpus else ''}, got {dict(resources)}")

    def __enter__(self) -> RayEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect, unless the connection was there before; idempotent."""
        if self._is_ours:
            ray.shutdown()

    def run(self, batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """Inspect batches of items.

        Args:
            batches: Each with the columns of `schema.ITEMS`.

        Yields:
            The rows of whole items, in the order in which batches are done.

        Raises:
            ArchiveError: The workers cannot go on, or have another model or profile.
        """
        while window := [ray.put(batch) for batch in islice(batches, WINDOW)]:
            blocks = ray.data.from_arrow_refs(window).map_batches(
                BatchInspector,
                fn_constructor_args=(self._asked,),
                batch_size=None,  # a block is a batch; otherwise Ray would wait for more rows
                batch_format="pyarrow",
                num_cpus=1,
                num_gpus=self._gpus or None,
                compute=ray.data.ActorPoolStrategy(size=min(self._workers, len(window))),
            )
            try:
                for rows in blocks.iter_batches(batch_size=None, batch_format="pyarrow"):
                    self._check(rows)
                    yield rows
            except ray.exceptions.RayError as error:
                raise ArchiveError(f"the Ray job cannot go on: {error}") from error

    def _check(self, rows: pa.Table) -> None:
        """Raise ArchiveError if a worker has another model or other settings than this process."""
        for name in ("model_sha256", "profile"):
            found = set(pc.unique(rows[name]).to_pylist())
            if found - {getattr(self.identity, name)}:
                raise ArchiveError(
                    f"expected {name} {getattr(self.identity, name)} from every worker, got {', '.join(found)}: "
                    "install the same version and the same files on all nodes"
                )


def _settings_here() -> dict[str, str]:
    """Return the settings of this process's environment, which a node of a cluster does not have."""
    names = {name: f"SPEECHQC_{name.upper()}" for name in PASSED_ON}
    return {name: os.environ[variable] for name, variable in names.items() if variable in os.environ}


def _connect() -> None:
    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ArchiveError(f"the Ray cluster cannot be reached: {error}") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_min_block_size = 1  # small results would wait until they fill a block of 1 MiB
    logging.getLogger("ray.data").setLevel(logging.ERROR)
