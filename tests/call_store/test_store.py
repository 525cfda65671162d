"""What is kept of calls, in each kind of database."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
from sqlalchemy import delete, func, inspect, select, text
from sqlalchemy.exc import OperationalError
from store_material import event, value, whole_call

from speech_qc.call_store import queries, records, writer
from speech_qc.call_store.database import MIGRATIONS, Database, parse_url
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
        return [row.kind for row in queries.events_after(connection, 0, 1000)]


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

    stack.results.publish(event("call.started", "a", document_id="a2"))  # the id is used again: a new call
    stack.results.publish(event("event.end", "a"))
    stack.results.publish(event("call.ended", "a", document_id="a2"))
    stack.stored()
    assert listed(stack)[0] == ["a", "b"]
    assert count(stack, events) == 3


def test_an_id_that_is_used_again_is_a_further_document_of_the_call(make_stack, database_url):
    """The first part of a call whose legs came back later, or whose id the sender uses again, is kept as it was."""
    stack = make_stack(results_url=database_url)
    for one in [*whole_call("a"), *whole_call("b"), event("call.started", "a", document_id="a2")]:
        stack.results.publish(one)
    stack.stored()
    assert listed(stack)[0] == ["a", "b", "a"]
    assert listed(stack, call="a")[0] == ["a", "a"] and listed(stack, call="a", limit=1)[1] is not None
    assert listed(stack, call="a", state="ended")[0] == listed(stack, state="live")[0] == ["a"]
    newest = asyncio.run(stack.results.call("a"))
    assert newest is not None and (newest["document_id"], newest["state"], newest["documents"]) == ("a2", "live", 2)
    only = asyncio.run(stack.results.call("b"))
    assert only is not None and "documents" not in only
    assert asyncio.run(stack.results.remove("a"))
    stack.results.publish(event("call.ended", "a", document_id="a2"))
    stack.stored()
    assert listed(stack)[0] == ["b"] and count(stack, events) == 5, "all of its documents are gone"


def test_servers_that_share_a_database_leave_each_others_documents_of_a_call_alone(make_stack, tmp_path, database_url):
    """A load balancer may have given the legs of a call to different servers."""
    url = database_url or f"sqlite:///{tmp_path}/shared.db"
    first, second = make_stack(results_url=url), make_stack(results_url=url)

    def tell(stack, kind, leg):
        legs = [{"role": leg}]
        one = event(kind, "4711", document_id=leg, legs=legs)
        if kind == "scores":
            one = replace(one, document={"call_id": "4711", "state": "live", "legs": legs})
        stack.results.publish(one)
        stack.stored()
        found, _ = asyncio.run(first.results.calls(call="4711", state=None, trunk=None, before=None, limit=50))
        return {document["legs"][0]["role"]: document["state"] for document in found}

    both_live = {"agent": "live", "customer": "live"}
    assert tell(first, "call.started", "agent") == {"agent": "live"}
    assert tell(second, "call.started", "customer") == both_live
    assert tell(first, "scores", "agent") == tell(second, "scores", "customer") == both_live
    assert tell(second, "call.ended", "customer") == both_live | {"customer": "ended"}
    assert tell(first, "scores", "agent") == both_live | {"customer": "ended"}
    assert tell(first, "call.ended", "agent") == {"agent": "ended", "customer": "ended"}


def test_a_document_that_is_too_old_takes_no_event_of_a_newer_one_with_it(database_url):
    database = Database(parse_url(database_url) if database_url else None, private=database_url is None)
    database.prepare()
    parts = [Entry.of(one) for part in ("a1", "a2") for one in whole_call("a", document_id=part)]
    with database.writing() as connection:
        records.store(connection, parts, Subscription())
        records.prune(connection, Limits(keep_s=1e6, max_calls=1, max_events=100))
        assert list(connection.scalars(select(calls.c.document_id))) == ["a2"]
        assert set(connection.scalars(select(events.c.document_id))) == {"a2"}
    database.close()


def test_a_batch_whose_commit_seemed_to_fail_is_stored_once(make_stack, monkeypatch, database_url):
    """The database has committed, then the connection broke before it said so."""
    monkeypatch.setattr(writer, "RETRY_S", 0.05)
    stack = make_stack(results_url=database_url)
    subscribe(stack, "call.started", "call.ended", urls=("http://a.invalid/", "http://b.invalid/"))
    stack.stored()
    real, failures, identities = Database.writing, [1, 1, 1], []

    @contextmanager
    def writing(self, *, ordered=True):
        with real(self, ordered=ordered) as connection:
            yield connection
            stored = connection.scalar(select(func.count()).select_from(events))
            identities.append(set(connection.scalars(select(deliveries.c.message_id))))
        if stored and ordered and failures:
            failures.pop()
            raise OperationalError("COMMIT", {}, Exception("server closed the connection unexpectedly"))

    monkeypatch.setattr(Database, "writing", writing)
    for one in whole_call("a"):
        stack.results.publish(one)
    stack.stored()
    assert not failures
    assert bodies(stack) == ["call.started", *["event.begin"] * 3, "call.ended"]
    assert count(stack, deliveries) == 4 and len(set.union(*identities)) == 4, "each keeps its id"


def test_a_webhook_has_an_id_of_its_own_for_each_receiver_and_event_and_keeps_it(make_stack):
    entry, database = Entry.of(event("call.started")), Database(None, private=True)
    database.prepare()
    receivers = Subscription(("http://a.invalid/", "http://b.invalid/"), frozenset({"call.started"}))
    found = []
    for _ in range(2):
        with database.writing() as connection:
            assert records.store(connection, [entry], receivers)
            found.append(list(connection.scalars(select(deliveries.c.message_id).order_by(deliveries.c.number))))
            connection.execute(delete(deliveries))
            connection.execute(delete(events))
    assert found[0] == found[1] and len(set(found[0])) == 2
    database.close()


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
        return replace(entry, at_s=now - age_s)

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
            seen += [row.seq for row in queries.events_after(connection, seen[-1] if seen else 0, 500)]
        if not any(thread.is_alive() for thread in threads):
            with reader.reading() as connection:
                seen += [row.seq for row in queries.events_after(connection, seen[-1] if seen else 0, 500)]
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
        assert len(inspect(connection).get_indexes("deliveries")) == 3
    for database in databases:
        database.close()


def test_a_database_of_an_earlier_version_keeps_what_it_contains(database_url, tmp_path):
    from alembic import command
    from alembic.config import Config

    database = Database(parse_url(database_url or f"sqlite:///{tmp_path}/old.db"), private=False)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    row = {"body": '{"call_id":"a"}', "at": time.time()}
    with database.writing() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        for statement in (
            "INSERT INTO calls (call_id, vendor, state, updated_s, document, owner) "
            "VALUES ('a', 'twilio', 'live', :at, :body, 'gone')",
            "INSERT INTO events (call_id, kind, at_s, body) VALUES ('a', 'call.started', :at, :body)",
            "INSERT INTO deliveries (target, call_id, message_id, body, created_s, due_s, claimed_until_s, attempts) "
            "VALUES ('http://a.invalid/', 'a', 'msg_1', :body, :at, :at, 0, 0)",
            "INSERT INTO removed (call_id, at_s) VALUES ('b', :at)",
        ):
            connection.execute(text(statement), row)
    database.prepare()
    with database.writing() as connection:
        assert [found.document for found in queries.list_calls(connection, state=None, trunk=None, before=None,
                                                               limit=9)] == [row["body"]]  # fmt: skip
        assert [found.body for found in queries.events_after(connection, 0, 9)] == [row["body"]]
        assert list(connection.scalars(select(deliveries.c.message_id))) == ["msg_1"]
        records.store(connection, [Entry.of(event("call.started", "a", document_id="new"))], Subscription())
        numbers = list(connection.scalars(select(calls.c.number).order_by(calls.c.number)))
        assert len(numbers) == 2
        ended = records.lost_calls(connection, Limits(1e6, 9, 9, lost_s=-1.0))
        records.store(connection, ended, Subscription())
        assert queries.list_calls(connection, state="live", trunk=None, before=None, limit=9) == []
        assert len(list(connection.scalars(select(calls.c.number)))) == 2, "its row is updated"
        config.attributes["connection"] = connection
        command.downgrade(config, "0002")
        kept = connection.execute(text("SELECT number, state FROM calls")).all()
        assert [tuple(found) for found in kept] == [(numbers[1], "ended")], "an id has one document there"
    database.prepare()
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
        low, _ = queries.bounds_of_events(connection)
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
