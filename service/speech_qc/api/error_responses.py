"""Maps all errors to HTTP responses with one body format."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.requests import HTTPConnection
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from speech_qc.api.deps import request_id
from speech_qc.errors import MethodNotAllowed, ProtocolError, RequestTimeout, SpeechQCError

logger = logging.getLogger(__name__)


def answer(error: SpeechQCError, request: HTTPConnection, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return the HTTP response for an error."""
    sent = dict(headers or {})
    retry_after_s = error.detail.get("retry_after_s", error.retry_after_s)
    if retry_after_s is not None:
        sent["Retry-After"] = str(retry_after_s)
    if isinstance(error, RequestTimeout):
        sent["Connection"] = "close"  # do not wait for the rest of a slow body
    return JSONResponse(error.body(request_id(request)), status_code=error.http_status, headers=sent)


def install(app: FastAPI) -> None:
    """Register the exception handlers."""

    @app.exception_handler(SpeechQCError)
    async def _known(request: Request, error: SpeechQCError) -> JSONResponse:
        if error.http_status >= 500:
            logger.error("%s: %s id=%s", error.code, error.message, request_id(request))
        return answer(error, request)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 405:
            allowed = {"Allow": (error.headers or {}).get("Allow", "")}
            message = f"{request.url.path} does not accept {request.method}: use {allowed['Allow']}"
            return answer(MethodNotAllowed(message), request, allowed)
        return answer(ProtocolError(str(error.detail)), request)

    @app.exception_handler(Exception)
    async def _unknown(request: Request, error: Exception) -> JSONResponse:
        identity = request_id(request)
        logger.exception("unexpected error id=%s", identity, exc_info=error)
        fault = SpeechQCError("unexpected server error: the log has the details under this request id")
        return answer(fault, request)
