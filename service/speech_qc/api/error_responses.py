"""Errors to HTTP answers, in one place: one table, one body."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.requests import HTTPConnection
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from speech_qc.api.deps import request_id
from speech_qc.errors import MethodNotAllowed, NotFound, ProtocolError, RequestTimeout, SpeechQCError

logger = logging.getLogger(__name__)


def answer(error: SpeechQCError, request: HTTPConnection, headers: dict[str, str] | None = None) -> JSONResponse:
    """The one error answer."""
    sent = dict(headers or {})
    retry_after_s = error.detail.get("retry_after_s", error.retry_after_s)
    if retry_after_s is not None:
        sent["Retry-After"] = str(retry_after_s)
    if isinstance(error, RequestTimeout):
        sent["Connection"] = "close"  # nobody waits for the rest of a body that comes so slowly
    return JSONResponse(error.body(request_id(request)), status_code=error.http_status, headers=sent)


def install(app: FastAPI) -> None:
    """Register the handlers."""

    @app.exception_handler(SpeechQCError)
    async def _known(request: Request, error: SpeechQCError) -> JSONResponse:
        if error.http_status >= 500:
            logger.error("%s: %s id=%s", error.code, error.message, request_id(request))
        return answer(error, request)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(validation_error(error.errors()), request)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 404:
            message = f"nothing is served at {request.url.path}; GET /docs lists what is"
            return answer(NotFound(message), request)
        if error.status_code == 405:
            allowed = {"Allow": (error.headers or {}).get("Allow", "")}
            message = f"{request.method} is not served at {request.url.path}; allowed: {allowed['Allow']}"
            return answer(MethodNotAllowed(message), request, allowed)
        return answer(ProtocolError(str(error.detail)), request)

    @app.exception_handler(Exception)
    async def _unknown(request: Request, error: Exception) -> JSONResponse:
        identity = request_id(request)
        logger.exception("unexpected error id=%s", identity, exc_info=error)
        fault = SpeechQCError("something unexpected went wrong here; the log has it under this request id")
        return answer(fault, request)


def validation_error(errors: Any) -> ProtocolError:
    """FastAPI's findings about a query or body as one of our errors: each names the option, what came, what fits."""
    lines = []
    for found in errors:
        place = ".".join(str(part) for part in found["loc"][1:]) or str(found["loc"][0])
        lines.append(f"{place}: {found['msg'].lower()}, came {found.get('input')!r}"[:300])
    return ProtocolError("; ".join(lines), errors=lines)
