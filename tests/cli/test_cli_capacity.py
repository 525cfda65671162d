from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from cli_material import run

from live_server import serving
from speech_qc.capacity import trial as trials
from speech_qc.capacity.frames import BINARY, CLOSE, FINAL, PING, PONG, TEXT, FrameSocket, client_frame
from speech_qc.capacity.host import Host, HostError, parse_steps, started_server
from speech_qc.capacity.load import Load, LoadClient, Outcome, Plan, frame_range
from speech_qc.capacity.search import QUANTILES, Search, Trial, advised_limit, percentile
from speech_qc.capacity.trial import Conditions, Target, run_trial
from speech_qc.cli.capacity import CapacityOptions, CapacityResult, advice

Answer = TypeVar("Answer")


def a_trial(streams: int = 10, p99: float = 100.0, **changes) -> Trial:
    lags = tuple(p99 if share == 0.99 else 50.0 for share in QUANTILES)
    given = {"answer_p99_ms": 5.0, "late_p99_ms": 1.0, "scores": 100, "lost_frames": 0, "failed": 0, "reason": None,
             "server_cpu": 0.5, "client_cpu": 0.1, "memory_kib": 90.0, "batch": 3.0} | changes  # fmt: skip
    return Trial(streams, lags, **given)


def against_a_server(work: Callable[[str], Answer], **settings: Any) -> Answer:
    """Run a blocking function while a server of this process is running."""

    async def both() -> Answer:
        async with serving(**settings) as (url, _):
            return await asyncio.to_thread(work, url.replace("ws://", "http://"))

    return asyncio.run(both())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "SETTLE_S", 0.2)
    monkeypatch.setattr(trials, "CLOSE_S", 2.0)
    monkeypatch.setattr(trials, "ramp_s", lambda _: 0.3)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50.0), (0.9, 90.0), (0.99, 99.0), (1.0, 100.0), (0.0, 1.0)])
def test_a_percentile_is_the_nearest_rank(share, expected):
    assert percentile([float(i) for i in range(1, 101)], share) == expected


def test_a_percentile_of_nothing_is_no_number():
    assert math.isnan(percentile([], 0.99))


@pytest.mark.parametrize("capacity", [1, 5, 31, 32, 33, 100, 517, 999])
def test_the_search_finds_the_most_that_hold(capacity):
    search, tried = Search(32, 1000), 0
    while (number := search.next()) is not None:
        search.record(number, number <= capacity)
        tried += 1
    assert search.holds <= capacity < search.holds + max(2, 0.051 * search.holds + 1)
    assert tried <= 12


def test_the_search_stops_at_the_largest_number_allowed():
    search = Search(32, 100)
    for expected in (32, 64, 100):
        assert search.next() == expected
        search.record(expected, True)
    assert search.next() is None and search.holds == 100


def test_the_search_ends_when_nothing_holds():
    search = Search(8, 100)
    while (number := search.next()) is not None:
        search.record(number, False)
    assert search.holds == 0 and search.fails == 1


def test_a_trial_holds_only_when_nothing_was_lost_and_nothing_failed():
    assert a_trial().holds(150)
    assert not a_trial(p99=150.1).holds(150)
    assert not a_trial(lost_frames=1).holds(150)
    assert not a_trial(failed=1).holds(150)
    assert not a_trial(p99=math.nan).holds(150)


def test_the_advice_names_four_fifths_and_says_when_it_is_a_lower_bound():
    options = CapacityOptions()
    assert "SPEECHQC_MAX_STREAMS=8 (80% of that)" in advice(CapacityResult("m", [a_trial()], 10, True, "so"), options)
    assert advice(CapacityResult("m", [a_trial()], 10, False, "time"), options).startswith("At least 10 streams")
    assert "Not even 10 streams" in advice(CapacityResult("m", [a_trial()], 0, True, "so"), options)
    late = [a_trial(), a_trial(20, 900.0, late_p99_ms=80.0)]
    assert "clients themselves were late" in advice(CapacityResult("m", late, 10, True, "so"), options)
    assert advised_limit(1) == 1


def test_frames_of_a_scores_message_are_counted_without_parsing_it():
    channels = [{"channel": 0, "frames": {"speech": [0.1, None, 0.3], "noise": [0.1, 0.2, 0.3]}}]
    message = {"type": "scores", "first_frame": 120, "start_s": 2.4, "channels": channels}
    assert frame_range(json.dumps(message, separators=(",", ":")).encode()) == (120, 3)
    assert frame_range(b'{"type":"event","phase":"begin"}') is None


def test_gaps_and_missing_frames_are_counted_as_lost():
    plan = Plan("http://127.0.0.1/v1/stream", 1, 100, 3200, 320, 880, 0.0, 0.0, 1.0, 1.0, 1)
    load, caller, outcome = Load(plan, bytes(16_000)), LoadClient(0.0, 0.0, 0), Outcome()
    caller.sent_s.extend([0.0] * 4)  # 400 ms: 20 frames are expected
    text = '{"type":"scores","first_frame":%d,"start_s":0,"channels":[{"channel":0,"frames":{"speech":[1,1,1,1,1]}}]}'
    load._on_text(caller, (text % 0).encode())
    load._on_text(caller, (text % 10).encode())  # 5 … 9 are missing, and so will be 15 … 19
    load._judge(caller, outcome)
    assert outcome.lost_frames == 10 and outcome.failed == 1


def test_frames_are_read_however_the_bytes_are_cut():
    def server_frame(kind: int, payload: bytes) -> bytes:
        size = len(payload)
        long = bytes((126,)) + size.to_bytes(2, "big") if size < 65536 else bytes((127,)) + size.to_bytes(8, "big")
        return bytes((FINAL | kind,)) + (bytes((size,)) if size < 126 else long) + payload

    texts: list[bytes] = []
    ends: list[tuple[int, str]] = []
    sent: list[bytes] = []

    class Wire(asyncio.Transport):
        def write(self, data):
            sent.append(bytes(data))

        def close(self):
            pass

    wanted = [b"a" * 5, b"b" * 126, b"c" * 70_000]
    data = b"HTTP/1.1 101 Switching Protocols\r\nA: b\r\n\r\n" + b"".join(server_frame(TEXT, text) for text in wanted)
    data += server_frame(PING, b"hi") + server_frame(CLOSE, (1013).to_bytes(2, "big") + b"later")
    for size in (1, 7, 1000, len(data)):
        for heard in (texts, ends, sent):
            heard.clear()
        socket = FrameSocket(b"", texts.append, lambda code, reason: ends.append((code, reason)))
        socket.connection_made(Wire())
        for start in range(0, len(data), size):
            socket.data_received(data[start : start + size])
        socket.connection_lost(None)
        assert texts == wanted and ends == [(1013, "later")]
        assert client_frame(PONG, b"hi") in sent


def test_a_client_frame_of_any_size_is_what_the_protocol_library_reads():
    from websockets.frames import Frame
    from websockets.streams import StreamReader

    for size in (0, 125, 126, 65_535, 65_536):
        reader = StreamReader()
        reader.feed_data(client_frame(BINARY, bytes(size)))
        step = Frame.parse(reader.read_exact, mask=True)
        with pytest.raises(StopIteration) as done:
            next(step)
        assert done.value.value.data == bytes(size) and done.value.value.opcode == BINARY


def test_live_lanes_alone_count_for_the_batch():
    text = (
        'speechqc_batch_size_sum{lane="live"} 30.0\nspeechqc_batch_size_count{lane="live"} 10.0\n'
        'speechqc_batch_size_sum{lane="upload"} 999.0\nspeechqc_batch_size_count{lane="upload"} 1.0\n'
        'speechqc_batch_size_sum{lane="flush"} 2.0\nspeechqc_batch_size_count{lane="flush"} 2.0\n'
    )
    steps = parse_steps(text)
    assert steps is not None and (steps.chunks, steps.steps) == (32.0, 12.0)
    assert parse_steps("something_else 1") is None


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_trial_times_every_score_of_real_streams_and_loses_none():
    def measure(url: str) -> Trial:
        return run_trial(Target.of(Host(url, None)), 6, Conditions(measure_s=1.0))

    trial = against_a_server(measure)
    assert trial.failed == 0 and trial.lost_frames == 0, trial.reason
    assert 6 * 8 <= trial.scores <= 6 * 11
    assert 0 < trial.answer_p99_ms <= trial.p99_ms < 1000
    assert trial.batch is not None and trial.batch >= 1


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_streams_that_are_refused_make_a_trial_fail_with_the_servers_reason():
    def measure(url: str) -> Trial:
        return run_trial(Target.of(Host(url, None)), 4, Conditions(message_ms=20, measure_s=0.5))

    trial = against_a_server(measure, max_streams=2)
    assert trial.failed == 2 and not trial.holds(10_000)
    assert trial.reason is not None and "2 of 2 places are taken" in trial.reason


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_the_command_prints_the_table_and_what_to_set(monkeypatch, capsys):
    def measure(url: str) -> tuple[int, str, int, str]:
        arguments = ("capacity", "--url", url, "--max", "3", "--seconds", "1", "--p99-ms", "2000")
        table = run(*arguments), capsys.readouterr().out
        return *table, run(*arguments, "--json"), capsys.readouterr().out

    code, table, code_json, text = against_a_server(measure)
    assert code == code_json == 0
    assert "p99" in table and "At least 3 streams stay within p99" in table and "SPEECHQC_MAX_STREAMS=2" in table
    found = json.loads(text)
    assert found["streams"] == 3 and found["max_streams"] == 2 and not found["complete"]
    assert found["trials"][0]["lag_ms"]["p99"] > 0 and found["trials"][0]["holds"]


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("places", [40, 5])
def test_a_limit_that_was_set_is_not_taken_for_that_of_the_machine(capsys, places):
    def measure(url: str) -> tuple[int, str]:
        arguments = ("capacity", "--url", url, "--max", "64", "--seconds", "1", "--p99-ms", "60000", "--json")
        return run(*arguments), capsys.readouterr().out

    code, text = against_a_server(measure, max_streams=places)
    found = json.loads(text)
    assert code == 0
    assert not found["complete"] and found["streams"] <= places
    assert "raise SPEECHQC_MAX_STREAMS there" in found["ended"]


def test_the_advice_for_an_address_that_may_be_a_balancers_says_so():
    options = CapacityOptions(url="http://127.0.0.1:8000")
    assert "number of servers behind" in advice(CapacityResult("m", [a_trial()], 10, True, "so"), options)
    full = a_trial(failed=2, reason='{"type":"error","error":{"code":"overloaded","message":"no"}}')
    assert "no places" in advice(CapacityResult("m", [full], 0, False, "there are no places"), options)


def test_a_server_that_is_none_is_an_error(capsys):
    assert run("capacity", "--url", "http://127.0.0.1:9") == 2
    assert "expected a speech-qc server at http://127.0.0.1:9" in capsys.readouterr().err
    assert run("capacity", "--url", "127.0.0.1:8000") == 2


@pytest.mark.slow
def test_a_server_that_cannot_start_is_told_with_the_end_of_its_log(tmp_path):
    with pytest.raises(HostError, match=r"nothing\.onnx"), started_server(4, model_path=str(tmp_path / "nothing.onnx")):
        pass
