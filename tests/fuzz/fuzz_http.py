"""Requests generated from the OpenAPI document: each gets a documented response, never a 500."""

from __future__ import annotations

from typing import Any

from fuzz_asgi import at_rest
from hypothesis import HealthCheck, Phase, given, settings

from speech_qc.app import create_app
from speech_qc.engine import EchoRunner
from speech_qc.settings import Settings

ENDLESS = {"/v1/watch"}
"""Responses without an end, for which the client would wait; tests/call_store/test_watch.py reads them."""


def run_schemathesis(schemathesis: Any, *, examples: int) -> int:
    """Call every operation with this number of generated requests.

    Returns:
        The number of requests sent.
    """
    from fastapi.testclient import TestClient

    app = create_app(Settings(max_upload_bytes=1024 * 1024), EchoRunner(lookahead_frames=2))
    sent = 0
    with TestClient(app, raise_server_exceptions=False):
        schema = schemathesis.openapi.from_asgi("/openapi.json", app)
        for operation in (result.ok() for result in schema.get_all_operations()):
            if operation.path in ENDLESS:
                continue

            @settings(
                max_examples=examples, deadline=None, database=None, derandomize=True,
                phases=(Phase.generate, Phase.shrink), suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @given(case=operation.as_strategy())
            def every_request_is_answered(case: Any) -> None:
                nonlocal sent
                sent += 1
                response = case.call()
                assert response.status_code < 500, response.text[:500]
                case.validate_response(response, checks=_checks(schemathesis))

            every_request_is_answered()
        assert at_rest(app)
    return sent


def _checks(schemathesis: Any) -> list[Any]:
    from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

    return [schemathesis.checks.not_a_server_error, content_type_conformance, response_schema_conformance]
