"""What is kept of calls, in each kind of database."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace

import pytest
from sqlalchemy import func, inspect, select
from sqlalchemy.exc import OperationalError
from store_material import event, value, whole_call

from speech_qc.call_store import records, writer
from speech_qc.call_store.database import Database, parse_url
from speech_qc.call_store.records import Entry, Limits, Subscription
from speech_qc.call_store.schema import calls, deliveries, events, metadata
from speech_qc.errors import SettingsError
from speech_qc.settings import Settings
from waiting import block_until


def subscribe(stack, *kinds, urls=("http://a.invalid/",)):
    """Fill the outbox without a sender that empties it."""
    stack.results._writer._subscription = Subscription(urls, frozenset(kinds))


def listed(stack, **wanted):
    options = {"state": None, "trunk": None, "before": None, "limit": 50} | wanted
    found, following = asyncio.run(stack.results.calls(**options))
    return [document["call_id"] for document in found], following


def count(stack, table):
    with stack.results.database.reading() as connection:
        return connection.scalar(select(func.count()).select_from(table))


def bodies(stack):
    with stack.results.database.reading() as connection:
        return [row.kind for row in records.events_after(connection, 0, 1000)]


def test_the_document_of_a_live_call_is_renewed_but_never_that_of_an_ended_one(make_stack, database_url):
    stack = make_stack(results_url=database_url)
    stack.results.publish(event("call.started", "c1", name="first"))
    stack.results.publish(replace(event("scores", "c1"), document={"call_id": "c1", "state": "live", "name": "second"}))
    stack.stored()
    document = asyncio.run(stack.results.call("c1"))
    assert document is not None and (document["state"], document["name"]) == ("live", "second")
    stack.results.publish(event("call.ended", "c1", name="last"))
    stack.results.publish(replace(event("scores", "c1"), document={"call_id": "c1", "state": "live", "name": "late"}))
    stack.stored()
    document = asyncio.run(stack.results.call("c1"))
    assert document is not None and (document["state"], document["name"]) == ("ended", "last")
    assert asyncio.run(stack.results.call("c2")) is None


def test_calls_are_listed_by_state_and_trunk_the_newest_first(make_stack, database_url):
    stack = make_stack(results_url=database_url)
    for number in range(5):
        stack.results.publish(event("call.started", f"c{number}", trunk=f"t{number % 2}", name="first"))
    for number in (1, 3):
        stack.results.publish(event("call.ended", f"c{number}", trunk="t1", name="last"))
    stack.stored()

    assert listed(stack) == (["c4", "c3", "c2", "c1", "c0"], None)
    assert listed(stack, state="live") == (["c4", "c2", "c0"], None)
    assert listed(stack, state="ended", trunk="t1") == (["c3", "c1"], None)
    assert listed(stack, state="ended", trunk="t0") == ([], None)
    first, following = listed(stack, limit=2)
    assert first == ["c4", "c3"] and following is not None
    assert listed(stack, limit=2, before=following)[0] == ["c2", "c1"]
    document = asyncio.run(stack.results.call("c3"))
    assert document is not None and (document["state"], document["name"]) == ("ended", "last")
    assert asyncio.run(stack.results.call("c9")) is None


def test_events_are_kept_in_their_order_and_only_chosen_kinds_are_delivered(make_stack, database_url):
    stack = make_stack(results_url=database_url)
    subscribe(stack, "call.ended", urls=("http://a.invalid/", "http://b.invalid/"))
    for one in [*whole_call("a"), event("scores", "a")]:
        stack.results.publish(one)
    stack.stored()
    assert bodies(stack) == ["call.started", *["event.begin"] * 3, "call.ended", "scores"]
    assert count(stack, deliveries) == 2


def test_a_removed_call_leaves_nothing_and_what_it_still_says_is_not_stored(make_stack, database_url):
    stack = make_stack(results_url=database_url)
    subscribe(stack, "call.started", "call.ended")
    for one in (event("call.started", "a"), event("scores", "a"), event("call.started", "b")):
        stack.results.publish(one)
    stack.stored()
    assert asyncio.run(stack.results.remove("a"))
    assert not asyncio.run(stack.results.remove("a"))
    for one in (event("event.begin", "a"), event("call.ended", "a")):
        stack.results.publish(one)
    stack.stored()
    assert listed(stack)[0] == ["b"]
    assert count(stack, deliveries) == count(stack, events) == 1

    stack.results.publish(event("call.started", "a"))  # the id is used again: a new call
    stack.results.publish(event("call.ended", "a"))
    stack.stored()
    assert listed(stack)[0] == ["a", "b"]


def test_an_id_that_is_used_again_is_one_call_the_new_one(make_stack, database_url):
    stack = make_stack(results_url=database_url)
    for one in [*whole_call("a"), *whole_call("b"), event("call.started", "a")]:
        stack.results.publish(one)
    stack.stored()
    assert listed(stack)[0] == ["a", "b"]
    assert listed(stack, state="live")[0] == ["a"]


def test_an_event_that_cannot_be_stored_is_counted_and_hinders_no_other(make_stack, database_url):
    stack = make_stack(results_url=database_url)
    for one in (event("call.started", "a"), event("scores", "nul\0"), event("scores", "a", thing=object()),
                event("scores", "lone \ud800"), event("call.ended", "a")):  # fmt: skip
        stack.results.publish(one)
    stack.stored()
    assert bodies(stack) == ["call.started", "call.ended"]
    assert value(stack.metrics.registry, "speechqc_results_dropped_total", reason="invalid") == 3


def test_what_is_old_or_too_much_is_deleted(tmp_path, database_url):
    database = Database(parse_url(database_url) if database_url else None, private=database_url is None)
    database.prepare()
    now = time.time()

    def put(kind, call_id, age_s):
        entry = Entry.of(event(kind, call_id))
        return Entry(entry.event, now - age_s, entry.document, entry.body)

    aged = [put(kind, f"c{age}", age) for age in range(100, 0, -10) for kind in ("call.started", "call.ended")]
    scores = [put("scores", "c10", age) for age in (15, 8, 1)]
    with database.writing() as connection:
        records.store(connection, [*aged, *scores], Subscription(("http://a.invalid/",), frozenset({"call.ended"})))
        assert records.prune(connection, Limits(keep_s=65, max_calls=4, max_events=7, scores_s=10)) == 3
        left = [row.call_id for row in connection.execute(select(calls.c.call_id).order_by(calls.c.number))]
        kinds = list(connection.scalars(select(events.c.kind).order_by(events.c.seq)))
        assert left == ["c40", "c30", "c20", "c10"]
        assert len(kinds) == 7 and kinds[-2:] == ["scores", "scores"]
        assert connection.scalar(select(func.count()).select_from(deliveries)) == 7, "the newest of ten"
    database.close()


def test_a_call_whose_process_died_is_ended_and_says_so(make_stack, database_url):
    stack = make_stack(results_url=database_url, results_keep_s=1e6)
    stack.results._writer._limits = Limits(1e6, 100, 1000, lost_s=1.0)
    stack.results._writer._prune_every_s = 0.1
    stack.stored()
    legs = [{"role": "agent", "ended_at": "2026-11-30T02:00:00Z"}, {"role": "customer", "ended_at": None}]
    with stack.results.database.writing() as connection:
        dead = [Entry.of(event("call.started", "a", legs=legs)), Entry.of(event("event.begin", "a"))]
        records.store(connection, dead, Subscription(), "a process that was killed")
    stack.results.publish(event("call.started", "b"))  # and nothing more: it is on hold, but its process is there
    block_until(lambda: listed(stack, state="ended")[0] == ["a"], "the call has ended")
    time.sleep(1.5)
    assert listed(stack, state="live")[0] == ["b"]
    document = asyncio.run(stack.results.call("a"))
    assert document is not None and document["lost"] is True and document["state"] == "ended"
    assert document["legs"][0]["ended_at"] == "2026-11-30T02:00:00Z"
    assert document["legs"][1]["ended_at"] == document["ended_at"]
    assert document["unknown"] == {"legs.1": "the process that scored this leg has exited"}
    assert bodies(stack).count("call.ended") == 1


@pytest.mark.slow
def test_processes_that_share_a_database_that_was_gone_do_not_end_each_others_calls(make_stack, tmp_path, monkeypatch):
    """The first one that reaches it again must give the others the time to do so."""
    monkeypatch.setattr(writer, "RETRY_S", 0.05)
    monkeypatch.setattr(writer, "MAX_RETRY_S", 0.1)
    url = f"sqlite:///{tmp_path}/calls.db"
    first, second = make_stack(results_url=url), make_stack(results_url=url)
    for stack in (first, second):
        stack.results._writer._limits = Limits(1e6, 100, 1000, lost_s=1.0)
        stack.results._writer._prune_every_s = 0.1
    second.results.publish(event("call.started", "b"))
    second.stored()
    time.sleep(1.3)  # long enough for `first` to judge
    real, back_s = Database.writing, time.monotonic() + 1.5

    def writing(self, **options):
        if time.monotonic() < back_s + (0.5 if self is second.results.database else 0.0):
            raise OperationalError("", {}, Exception("gone"))
        return real(self, **options)

    monkeypatch.setattr(Database, "writing", writing)
    block_until(lambda: not first.results._writer.is_connected, "it is noticed")
    block_until(lambda: all(one.results._writer.is_connected for one in (first, second)), "it is back")
    time.sleep(1.5)
    assert listed(first, state="live")[0] == ["b"]


def test_sequence_numbers_become_visible_in_their_order(database_url, tmp_path):
    """Or a watcher that has seen a number would miss a smaller one."""
    url = database_url or f"sqlite:///{tmp_path}/other.db"
    writers = [Database(parse_url(url), private=False) for _ in range(3)]
    reader = Database(parse_url(url), private=False)
    writers[0].prepare()
    seen: list[int] = []

    def write(database, name):
        for number in range(30):
            with database.writing() as connection:
                records.store(connection, [Entry.of(event("scores", f"{name}-{number}"))], Subscription())

    threads = [threading.Thread(target=write, args=(one, number)) for number, one in enumerate(writers)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) or len(seen) < 90:
        with reader.reading() as connection:
            seen += [row.seq for row in records.events_after(connection, seen[-1] if seen else 0, 500)]
        if not any(thread.is_alive() for thread in threads):
            with reader.reading() as connection:
                seen += [row.seq for row in records.events_after(connection, seen[-1] if seen else 0, 500)]
            break
    assert len(seen) == 90 and seen == sorted(seen)
    for database in (*writers, reader):
        database.close()


def test_migrations_make_the_tables_of_the_code(database_url, tmp_path):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    url = parse_url(database_url or f"sqlite:///{tmp_path}/other.db")
    databases = [Database(url, private=False) for _ in range(3)]
    failed: list[BaseException] = []

    def prepare(database):
        try:
            database.prepare()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=prepare, args=(one,)) for one in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, "several servers may start at the same time"
    with databases[0].writing() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        assert len(inspect(connection).get_indexes("deliveries")) == 2
    for database in databases:
        database.close()


def test_other_users_cannot_read_the_file(tmp_path):
    database = Database(parse_url(f"sqlite:///{tmp_path}/calls.db"), private=False)
    database.prepare()
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes["calls.db"] == 0o600 and set(modes.values()) == {0o600}, modes
    database.close()


def test_memory_has_the_same_tables():
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    database = Database(None, private=True)
    database.prepare()
    database.prepare()
    with database.writing() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        records.store(connection, [Entry.of(event("call.started"))], Subscription())
        low, _ = records.bounds_of_events(connection)
        assert low > 1e12, "numbers of an earlier run are smaller"
    database.close()


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("sqlite://", "without a file"),
        ("sqlite:///:memory:", "without a file"),
        ("sqlite:////nowhere/calls.db", "/nowhere is none: create it"),
        ("mysql://me:hunter2@host/db", "got mysql://"),
        ("hunter2", "got something else"),
    ],
)
def test_a_wrong_url_stops_the_start_and_is_not_repeated(url, complaint):
    with pytest.raises(SettingsError, match="SPEECHQC_RESULTS_URL") as raised:
        Database.of(Settings(results_url=url))
    assert complaint in raised.value.message and "hunter2" not in raised.value.message
