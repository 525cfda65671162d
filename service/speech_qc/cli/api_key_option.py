"""What commands that ask a server have in common: the key they send, and what to say when it is not taken."""

from __future__ import annotations

from pathlib import Path

from speech_qc.cli.seams import CommandError
from speech_qc.client.credentials import find_api_key
from speech_qc.errors import Forbidden, Unauthorized
from speech_qc.settings import API_KEY_VARIABLE

HINT = f"; this command takes it from --api-key-file FILE or from {API_KEY_VARIABLE}"


def api_key_for(file: Path | None, *, url: str | None) -> str | None:
    """The key to send; None without a server to send it to.

    Args:
        file: What `--api-key-file` says.
        url: The server that is asked; None when none is.

    Raises:
        CommandError: There is a file and no server, or no key where one was promised.
    """
    if url is None:
        if file is not None:
            raise CommandError("--api-key-file is sent to a server: name it with --url")
        return None
    try:
        return find_api_key(file)
    except ValueError as error:
        raise CommandError(f"{'--api-key-file: ' if file is not None else ''}{error}") from error


def with_hint(message: str, code: str) -> str:
    """A server's message, and how this command sends a key where that is what was wrong."""
    return message + (HINT if code in (Unauthorized.code, Forbidden.code) else "")
