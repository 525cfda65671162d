"""Fixtures of the tests of archives."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="needs the extra `archive`: pip install 'speech-qc[archive]'")

import pyarrow.fs as pafs
from s3_server import BUCKET, S3Server, s3_server

from speech_qc.archive.storage import _opened


@pytest.fixture(autouse=True)
def openers_are_found_by_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let worker processes import openers and signals of the tests."""
    here = Path(__file__).resolve().parent
    paths = [str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    # One at a time, also in other test processes: its servers choose further ports by adding to ours.
    with Path(tempfile.gettempdir(), "speech-qc-test-seaweedfs.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with s3_server(tmp_path_factory.mktemp("seaweedfs")) as running:
            yield running


@pytest.fixture
def store(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> pafs.S3FileSystem:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    _opened.cache_clear()  # connections keep the environment of the first use
    found = server.store()
    found.delete_dir_contents(BUCKET, missing_dir_ok=True)
    return found
