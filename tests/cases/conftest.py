from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from speech_qc.app import create_app
from speech_qc.engine import EchoRunner
from speech_qc.settings import Settings


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(Settings(), EchoRunner()), raise_server_exceptions=False) as client:
        yield client
