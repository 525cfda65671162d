"""The model is reloaded while serving: work in progress keeps the old one, and a failure changes nothing."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from live_server import serving
from signals import voice, wav_bytes, white_noise
from speech_qc.app import create_app
from speech_qc.engine import EchoRunner, Runner, echo_contract
from speech_qc.errors import ContractError, ReloadFailed
from speech_qc.file_stamp import FileStamp, file_stamp
from speech_qc.model.file_watcher import watch_file
from speech_qc.model.reload import MAX_OLD
from speech_qc.security.api_keys import make_key, write_keys
from speech_qc.settings import Settings
from stream_material import CLOSE, frames_of, of_type, pcm16, receive, receive_all, receive_until
from waiting import block_until, until

SECOND = pcm16(white_noise(1.0, level_dbfs=-30))


class Versioned(EchoRunner):
    """A model whose version is also visible in its scores: `noise` is a constant."""

    def __init__(self, version: str, *, broken: str = "") -> None:
        super().__init__(lookahead_frames=2)
        self.contract = echo_contract(2, version=version)
        self.sha256 = (version.replace(".", "") * 64)[:64]
        self.broken = broken

    def warm_up(self, shapes):
        if self.broken == "warm-up":
            raise RuntimeError("the new one does not run")
        super().warm_up(shapes)

    def run(self, features, state):
        scores, new_state = super().run(features, state)
        scores[:, :, self.contract.index("noise")] = int(self.contract.version[0]) / 10
        return scores, new_state


class Shelf:
    """Result of the next load: a runner, or an error to raise."""

    def __init__(self) -> None:
        self.next: Runner | Exception = Versioned("2.0.0")

    def __call__(self, settings: Settings) -> Runner:  # noqa: ARG002  # a Load
        if isinstance(self.next, Exception):
            raise self.next
        return self.next


@pytest.fixture
def shelf():
    return Shelf()


@pytest.fixture
def served(tmp_path, shelf):
    from fastapi.testclient import TestClient

    (_, plain), (text, admin) = make_key("plain"), make_key("admin", admin=True)
    write_keys(tmp_path / "keys", [plain, admin])
    settings = Settings(api_keys_file=tmp_path / "keys")
    with TestClient(create_app(settings, Versioned("1.0.0"), load=shelf)) as client:
        client.headers["authorization"] = f"Bearer {text}"
        yield client


def version_of(client):
    return client.get("/v1/model").json()["model"]["version"]


def reload(client):
    return client.post("/v1/model/reload")


def test_a_stream_ends_with_the_model_it_began_with_and_the_next_gets_the_new_one(served):
    with served.websocket_connect("/v1/stream") as old:
        assert receive(old)["model"]["version"] == "1.0.0"
        old.send_bytes(SECOND)
        receive_until(old, "scores")
        answer = reload(served)
        assert (answer.status_code, answer.json()["outcome"], answer.json()["old_models"]) == (200, "replaced", 1)
        with served.websocket_connect("/v1/stream") as new:
            assert receive(new)["model"]["version"] == "2.0.0"
            new.send_bytes(SECOND)
            new.send_text(CLOSE)
            assert set(frames_of(receive_all(new))["noise"]) == {0.2}
        old.send_bytes(SECOND)
        old.send_text(CLOSE)
        messages = receive_all(old)
        heard = {
            value for message in of_type(messages, "scores") for value in message["channels"][0]["frames"]["noise"]
        }
        assert heard == {0.1}
        assert messages[-1]["code"] == 1000
    inspected = served.post("/v1/inspect", content=wav_bytes(voice(0.5))).json()
    assert inspected["model"]["version"] == "2.0.0"
    assert 'version="2.0.0"' in served.get("/metrics").text
    block_until(lambda: not served.app.state.parts.models._old, "the old model is gone")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (ContractError("the file is no model"), "the file is no model"),
        (OSError("disk on fire"), "disk on fire"),
        (Versioned("3.0.0", broken="warm-up"), "does not run"),
    ],
)
def test_a_failure_keeps_the_old_model_and_says_why(served, shelf, given, why):
    shelf.next = given
    answer = reload(served)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "reload_failed")
    assert why in answer.json()["error"]["message"]
    assert version_of(served) == "1.0.0"
    assert served.get("/health/ready").status_code == 200
    assert 'speechqc_model_reloads_total{outcome="failed"} 1.0' in served.get("/metrics").text
    assert served.post("/v1/inspect", content=wav_bytes(voice(0.5))).status_code == 200
    shelf.next = Versioned("2.0.0")
    assert reload(served).status_code == 200
    assert version_of(served) == "2.0.0"


def test_the_same_file_changes_nothing(served, shelf):
    shelf.next = Versioned("1.0.0")
    engine = served.app.state.parts.engine
    assert reload(served).json()["outcome"] == "unchanged"
    assert served.app.state.parts.engine is engine


def test_a_dead_engine_is_replaced_by_the_same_file(tmp_path, shelf, served):
    parts = served.app.state.parts
    served.portal.call(lambda: asyncio.sleep(0, parts.engine._die("for this test")))
    assert served.get("/health/ready").status_code == 503
    shelf.next = Versioned("1.0.0")
    assert reload(served).json()["outcome"] == "replaced"
    assert served.get("/health/ready").status_code == 200
    assert "speechqc_engine_alive 1.0" in served.get("/metrics").text


def test_only_an_admin_key_reloads(tmp_path, make_client):
    plain, key = make_key("plain")
    write_keys(tmp_path / "keys", [key])
    client = make_client(api_keys_file=tmp_path / "keys")
    assert client.post("/v1/model/reload").status_code == 401
    refused = client.post("/v1/model/reload", headers={"X-API-Key": plain})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    assert make_client().post("/v1/model/reload").status_code == 403  # a server without keys has no admin key


def test_no_more_old_models_are_kept_than_there_is_memory_for(served, shelf):
    with ExitStack() as stack:
        sessions = []
        for number in range(MAX_OLD):
            sessions.append(stack.enter_context(served.websocket_connect("/v1/stream")))
            receive(sessions[-1])
            shelf.next = Versioned(f"{number + 2}.0.0")
            assert reload(served).status_code == 200
        shelf.next = Versioned("9.0.0")
        assert "earlier models" in reload(served).json()["error"]["message"]
        for session in sessions:
            session.send_text(CLOSE)
            receive_all(session)
    block_until(lambda: not served.app.state.parts.models._old, "the old model is gone")
    assert reload(served).status_code == 200


def test_the_server_ends_in_order_with_an_old_model_in_use(shelf):
    async def main() -> None:
        app = create_app(Settings(drain_s=2.0), Versioned("1.0.0"), load=shelf)
        async with app.router.lifespan_context(app):
            models = app.state.parts.models
            with models.current.held() as old:
                number = old.engine.open_session()
                await models.reload()
                assert models.current is not old
                with pytest.raises(ReloadFailed, match="shutting down"):
                    models._draining = True
                    await models.reload()
                old.engine.close_session(number)
        assert not old.engine.status.ready
        assert not models._old

    asyncio.run(main())


def looks_at(file: Path, polls: list[bytes | None], obstacles: list[str | None], known: FileStamp | None) -> list[str]:
    """Watch a file that is written before each poll, or not, and return what was read of it."""
    looks: list[str] = []
    read, write = file.read_text, file.write_bytes

    async def main() -> None:
        states = iter(polls)

        async def sleep(_: float) -> None:
            try:
                state = next(states)
            except StopIteration:
                raise asyncio.CancelledError from None
            if state is not None:
                write(state)

        async def changed() -> None:
            looks.append(read())
            raise ReloadFailed("no model")

        def obstacle() -> str | None:
            return obstacles.pop(0) if obstacles else None

        with pytest.raises(asyncio.CancelledError):
            await watch_file(file, known, 1.0, changed, obstacle, sleep)

    asyncio.run(main())
    return looks


def test_a_file_that_changes_is_loaded_once_it_stays_as_it_is(tmp_path: Path):
    file = tmp_path / "model"
    file.write_bytes(b"1")
    polls = [b"12", b"123", None, None, b"1234", None, None]
    assert looks_at(file, polls, [], file_stamp(file)) == ["123", "1234"]


def test_a_file_that_changed_before_it_was_watched_is_loaded(tmp_path: Path):
    file = tmp_path / "model"
    file.write_bytes(b"1")
    before = file_stamp(file)
    file.write_bytes(b"12")
    assert looks_at(file, [None, None], [], before) == ["12"]


def test_a_file_that_cannot_be_loaded_yet_is_loaded_later(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    file = tmp_path / "model"
    file.write_bytes(b"1")
    polls = [b"12", None, None, None, None, None]
    with caplog.at_level("WARNING", "speech_qc.model"):
        assert looks_at(file, polls, ["2 earlier models are still used", "the same", None], file_stamp(file)) == ["12"]
    assert [record.message for record in caplog.records] == [
        "the model file has changed, but is not read yet: 2 earlier models are still used"
    ], "it is said once"


def test_sighup_reloads(shelf, monkeypatch):
    async def main() -> None:
        async with serving(Versioned("1.0.0")) as (_, app):
            monkeypatch.setattr(app.state.parts.models, "_load", shelf)
            os.kill(os.getpid(), 1)
            await until(lambda: app.state.parts.models.current.contract.version == "2.0.0", "the new model is in use")

    asyncio.run(main())
