"""API key handling shared by the commands that call a server: finding the key, and a hint if it is refused."""

from __future__ import annotations

from pathlib import Path

from speech_qc.cli.seams import CommandError
from speech_qc.client.credentials import find_api_key
from speech_qc.errors import Forbidden, Unauthorized
from speech_qc.settings import API_KEY_VARIABLE

HINT = f"; set the key with --api-key-file FILE or {API_KEY_VARIABLE}"


def api_key_for(file: Path | None, *, url: str | None) -> str | None:
    """Return the key to send; None without a server.

    Args:
        file: Value of `--api-key-file`.
        url: Server to send it to; None without one.

    Raises:
        CommandError: There is a file but no server, or the file or variable does not contain a key.
    """
    if url is None:
        if file is not None:
            raise CommandError("--api-key-file needs a server: set one with --url")
        return None
    try:
        return find_api_key(file)
    except ValueError as error:
        raise CommandError(f"{'--api-key-file: ' if file is not None else ''}{error}") from error


def with_hint(message: str, code: str) -> str:
    """Return a server's message, with a hint on setting the key if the server refused the request because of it."""
    return message + (HINT if code in (Unauthorized.code, Forbidden.code) else "")
