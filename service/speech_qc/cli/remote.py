"""Inspection by a server: uploads each file while it is read, and reports every failure as one sentence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import numpy as np
import orjson

from speech_qc.cli.answers import Document
from speech_qc.cli.api_key_option import with_hint
from speech_qc.cli.options import Question
from speech_qc.cli.seams import CommandError
from speech_qc.client.credentials import bearer

UPLOAD_BYTES = 1 << 18
"""Bytes read from disk at a time."""
TIMEOUT = httpx.Timeout(60.0, connect=10.0, read=900.0)
"""Seconds; hours of audio take minutes on a CPU."""
ATTEMPTS = 5
"""Maximum attempts if the server is overloaded or shutting down."""
LONGEST_WAIT_S = 30.0
"""Maximum wait between two attempts, whatever the server proposes."""
BUSY = frozenset({429, 503})


class RemoteAnswerer:
    """Inspects recordings with a server.

    Args:
        server: Address of the server, for example `http://127.0.0.1:8000`.
        question: Options of the inspection.
        api_key: Key to send; None for a server without keys.
        transport: HTTP transport; None for the network.
        sleep: Waits between attempts, seconds.

    Raises:
        CommandError: The address is invalid.
    """

    def __init__(
        self,
        server: str,
        question: Question,
        api_key: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        parts = urlsplit(server)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise CommandError(f"--url: expected an address like http://127.0.0.1:8000, got {server!r}")
        self._server = server.rstrip("/")
        self._query = {"channels": question.channels, "frames": "true" if question.frames else "false"}
        self._query |= {"profile": question.profile} if question.profile else {}
        self._query |= {"labels": question.labels} if question.labels else {}
        self._query |= {"explain": "true"} if question.explain else {}
        self._query |= {"legs": question.legs} if question.legs else {}
        self._query |= {"encoding": question.encoding} if question.encoding else {}
        self._query |= {"sample_rate": str(question.sample_rate)} if question.sample_rate is not None else {}
        self._client = httpx.AsyncClient(transport=transport, timeout=TIMEOUT, headers=bearer(api_key))
        self._sleep = sleep

    async def __aenter__(self) -> Self:
        """Do nothing: no request is needed yet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def inspect(self, path: Path) -> Document:
        """Upload one recording and read the answer; see `Answerer.inspect`."""
        for attempt in range(1, ATTEMPTS + 1):
            answer = await self._post(path)
            if answer.status_code not in BUSY or attempt == ATTEMPTS:
                break
            await self._sleep(min(_retry_after_s(answer), LONGEST_WAIT_S))
        if answer.status_code != httpx.codes.OK:
            raise CommandError(self._refusal(answer))
        try:
            return _with_arrays(orjson.loads(answer.content))
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise CommandError(f"{self._server} sent an unexpected answer; is it a speech-qc server?") from error

    async def _post(self, path: Path) -> httpx.Response:
        """Send one request; the body is read from disk while it is sent."""
        size = (await asyncio.to_thread(path.stat)).st_size
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        url = f"{self._server}/v1/inspect"
        try:
            return await self._client.post(url, params=self._query, headers=headers, content=_pieces(path))
        except httpx.TimeoutException as error:
            raise CommandError(f"{self._server} did not answer in time ({type(error).__name__})") from error
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise CommandError(f"{self._server} cannot be reached or closed the connection: {reason}") from error

    def _refusal(self, answer: httpx.Response) -> str:
        """Return an error response as one sentence: the server's own message, if the body contains one."""
        try:
            message = str(orjson.loads(answer.content)["error"]["message"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return (
                f"{self._server} answered {answer.status_code} {answer.reason_phrase}; is it the address of a "
                "speech-qc server?"
            )
        return with_hint(message, str(orjson.loads(answer.content)["error"].get("code")))


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    file = await asyncio.to_thread(path.open, "rb")
    with file:
        while piece := await asyncio.to_thread(file.read, UPLOAD_BYTES):
            yield piece


def _retry_after_s(answer: httpx.Response) -> float:
    try:
        return max(0.0, float(answer.headers.get("Retry-After", "1")))
    except ValueError:  # a date; the service itself sends seconds
        return 1.0


def _with_arrays(document: Any) -> Document:
    """Convert the scores to arrays, as in `inspection_document`.

    Raises:
        KeyError, TypeError, ValueError: The document is not the result of an inspection.
    """
    for channel in document["channels"]:
        for name in ("events", "levels", "summary", "verdict"):
            channel[name]
        if "frames" in channel:
            columns = channel["frames"].items()
            channel["frames"] = {label: np.array(values, np.float32) for label, values in columns}
    document["audio"]["duration_s"], document["frame_hop_s"], document["model"]["name"]
    return dict(document)
