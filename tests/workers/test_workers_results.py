"""Several workers answer with one list of calls, which they share in a file of the server."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from sqlalchemy.engine import URL

from speech_qc.call_store import records
from speech_qc.call_store.database import Database
from speech_qc.call_store.records import Entry, Subscription
from speech_qc.calls.events import CallEvent
from waiting import block_until
from workers_server import started

pytestmark = pytest.mark.slow


def shared_file(pid: int) -> Path:
    """The SQLite file that a worker has open."""
    names = {link.readlink() for link in Path(f"/proc/{pid}/fd").iterdir() if link.exists()}
    (found,) = {name for name in names if re.search(r"/speech-qc-[^/]+/calls\.db$", str(name))}
    return found


def store(database: Database, *calls: str) -> None:
    moment, document = datetime.now(UTC), {"state": "live", "legs": []}
    entries = [
        Entry.of(CallEvent("call.started", call, "twilio", None, moment, document, document_id=call)) for call in calls
    ]
    with database.writing() as connection:
        records.store(connection, entries, Subscription())


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="finds the file by /proc")
def test_all_workers_list_and_delete_the_same_calls_and_the_file_goes_with_the_server(tmp_path):
    with started(tmp_path, workers=2) as server:
        first, second = (shared_file(pid) for pid in server.pids().values())
        assert first == second
        database = Database(URL.create("sqlite", database=str(first)), private=True)
        store(database, *(f"c{number}" for number in range(10)))

        def listed(_):
            return httpx.get(f"{server.url}/v1/calls", timeout=20).json()

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(listed, range(16)))
        assert all([call["call_id"] for call in one["calls"]] == [f"c{n}" for n in range(9, -1, -1)] for one in answers)
        assert {one["scope"] for one in answers} == {"server"}
        with httpx.stream("GET", f"{server.url}/v1/watch", timeout=20) as response:
            lines = response.iter_lines()
            assert next(lines).startswith("retry:")
            store(database, "new")
            assert "event: call.started" in (line for line in lines)
        assert httpx.delete(f"{server.url}/v1/calls/c3").status_code == 204
        for _ in range(6):
            assert httpx.get(f"{server.url}/v1/calls/c3").status_code == 404
        answered = {
            key[1] for key, value in server.series().items() if key[0] == "speechqc_http_requests_total" and value
        }
        assert answered == {"0", "1"}, "both workers have answered"
        database.close()
    block_until(lambda: not first.parent.exists(), "the file is removed with its folder")
