"""The API key that a client sends: where it is read from, and the header that carries it.

The key is never taken from the command line: all users of a machine can read command lines, and shells store them in
their history. Knows nothing about servers or how they check keys (`speech_qc.security.api_keys`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from speech_qc.settings import API_KEY_VARIABLE


def find_api_key(file: Path | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the key from `--api-key-file`, otherwise from `SPEECHQC_API_KEY`; None if neither is set.

    Args:
        file: File that contains only the key; may be a pipe.
        environment: Environment variables.

    Raises:
        ValueError: The file cannot be read, or its content is not a key; the message never contains the content.
    """
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8").strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"expected a key in {file}, got a file that is not text") from error
        except OSError as error:
            raise ValueError(f"expected a key in {file}, cannot read it: {error.strerror or error}") from error
        return _checked(text, str(file))
    text = environment.get(API_KEY_VARIABLE, "").strip()
    return _checked(text, API_KEY_VARIABLE) if text else None


def bearer(api_key: str | None) -> dict[str, str]:
    """Return the header that carries a key; empty without a key.

    The header is `Authorization` rather than `X-API-Key`, because HTTP clients drop it on a redirect to another host.

    Raises:
        ValueError: The key is not valid in a header; the message never contains the key.
    """
    return {} if api_key is None else {"Authorization": f"Bearer {_checked(api_key, 'the API key')}"}


def _checked(text: str, where: str) -> str:
    if not text:
        raise ValueError(f"expected a key in {where}, but it is empty")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"expected one key in {where}: a single ASCII word, as printed by `speech-qc keys add`")
    return text
