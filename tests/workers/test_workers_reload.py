"""Reload the model in all workers: each has it, or the response names those that do not."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import httpx
import onnx
import pytest
from fastapi.testclient import TestClient

from speech_qc.app import create_app
from speech_qc.contract import METADATA_KEY, ModelContract
from speech_qc.engine import EchoRunner
from speech_qc.errors import ReloadFailed
from speech_qc.model.reload import MAX_OLD
from speech_qc.security.api_keys import make_key, write_keys
from speech_qc.settings import Settings, default_model_path
from speech_qc.workers import Member, member
from speech_qc.workers.channel import Channel
from speech_qc.workers.reload import ALL_S, RELOAD_S, Reloads, all_succeeded
from workers_server import WorkersServer, started


def put(path: Path, version: str) -> None:
    """Replace the model file atomically by the shipped model with another version, as a deployment should."""
    model = onnx.load(default_model_path())
    contract = ModelContract.model_validate_json(
        next(one.value for one in model.metadata_props if one.key == METADATA_KEY)
    )
    onnx.helper.set_model_props(
        model, {METADATA_KEY: contract.model_copy(update={"version": version}).model_dump_json()}
    )
    onnx.save(model, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


class Reloading:
    """A server of two workers with a model file of the test."""

    def __init__(self, server: WorkersServer, file: Path, key: str) -> None:
        self.server, self.file, self._key = server, file, key

    def reload(self) -> httpx.Response:
        return httpx.post(
            f"{self.server.url}/v1/model/reload", headers={"Authorization": f"Bearer {self._key}"}, timeout=60
        )

    def versions(self) -> list[str]:
        """Return the versions of the workers' models, by worker."""
        text, found = self.server.get("/metrics").text, {}
        for line in text.splitlines():
            if line.startswith("speechqc_model_info{"):
                labels = dict(pair.split("=") for pair in line.partition("{")[2].partition("}")[0].split(","))
                found[labels["worker"]] = labels["version"].strip('"')
        return [version for _, version in sorted(found.items())]


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reload")
    key, kept = make_key("admin", admin=True)
    write_keys(folder / "keys", [kept])
    put(folder / "model.onnx", "1.0.0")
    with started(folder, MODEL_PATH=str(folder / "model.onnx"), API_KEYS_FILE=str(folder / "keys")) as server:
        yield Reloading(server, folder / "model.onnx", key)


def outcomes(answer: httpx.Response) -> list[str]:
    return [worker["outcome"] for worker in answer.json()["workers"]]


@pytest.mark.slow
def test_one_request_replaces_the_model_of_every_worker_and_says_so_for_each(running):
    put(running.file, "2.0.0")
    answer = running.reload()
    assert (answer.status_code, answer.json()["outcome"], outcomes(answer)) == (200, "replaced", ["replaced"] * 2)
    assert [worker["model"]["version"] for worker in answer.json()["workers"]] == ["2.0.0"] * 2
    assert running.versions() == ["2.0.0"] * 2
    again = running.reload()
    assert (again.json()["outcome"], outcomes(again)) == ("unchanged", ["unchanged"] * 2)


@pytest.mark.slow
def test_a_file_that_is_no_model_changes_no_worker(running):
    before = running.versions()
    running.file.write_bytes(b"no model")
    answer = running.reload()
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (409, "reload_failed")
    assert sorted(worker["outcome"] for worker in error["detail"]["workers"]) == ["failed", "kept"]
    assert "stays in use" in error["message"]
    assert running.versions() == before
    put(running.file, before[0])
    assert running.reload().status_code == 200


@pytest.mark.slow
def test_a_hangup_of_the_parent_replaces_the_model_of_every_worker(running):
    put(running.file, "3.0.0")
    running.server.process.send_signal(signal.SIGHUP)
    running.server.until(lambda: running.versions() == ["3.0.0"] * 2, "the new model in both workers")
    running.server.until(
        lambda: "reload of the model: worker 0 replaced; worker 1 replaced" in running.server.log(), "one line for both"
    )


@pytest.mark.slow
def test_requests_at_the_same_time_end_with_one_model_everywhere(running):
    put(running.file, "4.0.0")

    async def both() -> list[httpx.Response]:
        return await asyncio.gather(*(asyncio.to_thread(running.reload) for _ in range(2)))

    answers = asyncio.run(both())
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert 200 in {answer.status_code for answer in answers}
    for answer in answers:
        if answer.status_code == 409:
            assert "another reload is in progress" in answer.json()["error"]["message"]
    assert running.versions() == ["4.0.0"] * 2


@pytest.mark.slow
def test_a_worker_that_is_down_during_a_reload_comes_back_with_the_new_model(running):
    killed = running.server.pids()[1]
    os.kill(killed, signal.SIGKILL)
    put(running.file, "5.0.0")
    running.server.until(lambda: running.server.series()["speechqc_worker_up", "1"] == 0, "worker 1 down")
    answer = running.reload()
    assert answer.status_code == 200, answer.text
    assert outcomes(answer) == ["replaced", "starting"]
    running.server.until(lambda: running.versions() == ["5.0.0"] * 2, "the new model in both workers")


class Fleet:
    """Workers with predefined responses."""

    def __init__(self, **answers: str) -> None:
        self.answers = {int(name.removeprefix("w")): outcome for name, outcome in answers.items()}
        self.asked: list[int] = []

    async def ask(self, number: int) -> dict:
        self.asked.append(number)
        await asyncio.sleep(0)
        return {"outcome": self.answers[number], "message": ""}

    def reloads(self, workers: int = 3) -> Reloads:
        return Reloads(self.ask, lambda: self.answers, range(workers))


def told(found: dict) -> list[str]:
    return [said["outcome"] for said in found.values()]


def test_the_worker_that_was_asked_tries_first_and_the_others_follow():
    fleet = Fleet(w0="replaced", w1="replaced", w2="replaced")
    assert told(asyncio.run(fleet.reloads().run(2))) == ["replaced"] * 3
    assert fleet.asked == [2, 0, 1]


def test_when_the_first_fails_no_other_is_asked():
    fleet = Fleet(w0="replaced", w1="failed", w2="replaced")
    reloads = fleet.reloads()
    found = asyncio.run(reloads.run(1))
    assert told(found) == ["kept", "failed", "kept"] and fleet.asked == [1]
    assert not all_succeeded(found) and reloads.done == 0


def test_one_that_fails_later_is_named_and_one_that_is_started_counts_as_on_its_way():
    found = asyncio.run(Fleet(w0="replaced", w1="failed").reloads().run())
    assert told(found) == ["replaced", "failed", "starting"]
    assert not all_succeeded(found)
    assert all_succeeded({0: found[0], 2: found[2]})


def test_a_second_reload_does_not_begin_beside_the_first_and_none_without_workers():
    async def scenario() -> tuple[dict, dict, dict]:
        reloads = Fleet(w0="replaced", w1="replaced").reloads(2)
        first, second = await asyncio.gather(reloads.run(), reloads.run(1))
        return first, second, await reloads.run()

    first, second, third = asyncio.run(scenario())
    assert told(first) == ["replaced"] * 2 == told(third)
    assert told(second) == ["failed"] * 2 and "in progress" in second[0]["message"]
    assert "no worker is ready" in asyncio.run(Fleet().reloads(1).run())[0]["message"]


class HalfReloaded(Member):
    """A worker while the other worker has kept the old model."""

    def __init__(self) -> None:
        self.worker, self.workers, self.results_file = 0, 2, None

    def offer(self, read):
        pass

    def offer_reload(self, reload):
        pass

    def close(self):
        pass

    async def reload_all(self):
        new = {"name": "m", "version": "2.0.0", "sha256": "b" * 64, "old": 0}
        old = new | {"version": "1.0.0", "old": MAX_OLD, "message": "2 earlier models are still used"}
        return {0: {"outcome": "replaced", "message": "", **new}, 1: {"outcome": "failed", **old}}


def test_the_answer_to_a_reload_that_went_half_way_says_which_worker_has_which_model(tmp_path):
    key, kept = make_key("admin", admin=True)
    write_keys(tmp_path / "keys", [kept])
    app = create_app(Settings(api_keys_file=tmp_path / "keys"), EchoRunner(2), member=HalfReloaded())
    with TestClient(app) as client:
        answer = client.post("/v1/model/reload", headers={"X-API-Key": key})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (409, "reload_failed")
    assert "1 of 2 workers" in error["message"] and "worker 1 failed (2 earlier models" in error["message"]
    versions = {one["worker"]: (one["outcome"], one["model"]["version"]) for one in error["detail"]["workers"]}
    assert versions == {0: ("replaced", "2.0.0"), 1: ("failed", "1.0.0")}


def test_a_parent_that_is_silent_or_gone_is_said_to_be(monkeypatch):
    monkeypatch.setattr(member, "ALL_S", 0.02)

    async def scenario(gone: bool) -> None:
        ours, theirs = socket.socketpair()
        one = Member(theirs, 0, 2, lambda: None)
        with ours:
            if not gone:
                await one.join()
            try:
                await one.reload_all()
            finally:
                one.close()
                theirs.close()

    for gone, why in ((False, "did not answer within 0.02 s"), (True, "has exited")):
        with pytest.raises(ReloadFailed, match=why):
            asyncio.run(scenario(gone))


def test_whoever_waits_for_an_answer_learns_that_the_other_side_is_gone():
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            channel = await Channel.over(ours)
            asking = asyncio.create_task(channel.ask("reload", 30))
            await asyncio.sleep(0)
            channel.close()
            with pytest.raises(ConnectionError):
                await asyncio.wait_for(asking, 5)

    asyncio.run(scenario())


def test_a_worker_waits_longer_than_the_parent():
    assert ALL_S > 2 * RELOAD_S
