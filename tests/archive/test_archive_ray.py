"""The engine for clusters, on a real Ray."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs the extra `ray`: pip install 'speech-qc[ray]'; not for every Python")

from archive_material import OPENER, KilledRun, Listing, rows_in, run_here, wait_for, write_clips

from speech_qc.archive.asked import Asked
from speech_qc.archive.dest import Destination
from speech_qc.archive.items import Item
from speech_qc.archive.run import run
from speech_qc.capacity.host import descendants_of

pytestmark = pytest.mark.slow

RAY = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_worker_niceness": "0"}
"""Ray's workers are as nice as they can be; beside other tests they would not get on."""


def comparable(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{name: value for name, value in row.items() if name != "inspected_at"} for row in rows]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
@pytest.mark.long
def test_rows_are_those_of_the_local_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in RAY.items():
        monkeypatch.setenv(name, value)
    from speech_qc.archive.ray_engine import RayEngine

    paths = write_clips(tmp_path / "in", 12, 0.7)
    crash = str(tmp_path / "crash.wav")
    source = Listing([Item(uri, etag="1") for uri in (*paths[:5], crash, str(tmp_path / "none"), *paths[5:])], OPENER)
    with RayEngine(Asked(), workers=1) as engine:
        for expected in (14, 0):
            with Destination(str(tmp_path / "ray")) as destination:
                done = run([source], destination, engine)
                assert (done.finished, done.errors) == (expected, 2 if expected else 0)
    run_here(source, tmp_path / "local")
    ours, theirs = rows_in(tmp_path / "ray"), rows_in(tmp_path / "local")
    assert len(ours) == 14
    assert comparable(ours) == comparable(theirs)


@pytest.mark.long
def test_a_job_whose_driver_and_workers_are_killed_ends_with_every_row_once(tmp_path: Path) -> None:
    paths = write_clips(tmp_path / "in", 120, 3.0)
    source, out = str(tmp_path / "in"), tmp_path / "out"
    options = ("--engine", "ray", "--workers", "2")

    def parts() -> int:
        return len(list(out.glob("*.parquet")))

    for _ in range(2):
        before = parts()
        killed = KilledRun(source, str(out), *options, env=RAY)
        wait_for(lambda before=before: parts() > before, 180)
        cluster = descendants_of(killed.process.pid)
        killed.kill()
        for pid in cluster:  # the cluster of a driver that is killed ends a little later
            if Path(f"/proc/{pid}").exists():
                os.kill(pid, signal.SIGKILL)
    assert 0 < len(rows_in(out)) < len(paths)

    last = KilledRun(source, str(out), *options, env=RAY)
    for name in ("MapWorker", "speech_qc.archive.worker"):
        before = parts()
        wait_for(lambda before=before: parts() > before, 180)
        last.kill_worker(name)
    last.wait(240)

    rows = rows_in(out)
    assert [row["uri"] for row in rows] == paths
    assert all(row["error"] is None for row in rows)
