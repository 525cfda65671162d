"""The key that a client sends to a server: where it comes from, and how it is sent.

Never from the command line: every user of a machine can read those of all processes, and shells keep them. Knows no
server and nothing of how a server checks keys (`speech_qc.security.api_keys`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from speech_qc.settings import API_KEY_VARIABLE


def find_api_key(file: Path | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """The key of `--api-key-file`, else of `SPEECHQC_API_KEY`; None where neither is there.

    Args:
        file: Holds nothing but the key; may be a pipe.
        environment: Where the variable stands.

    Raises:
        ValueError: The file cannot be read, or what was found is no key; the message never holds it.
    """
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8").strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"expected a key in {file}, it is no text") from error
        except OSError as error:
            raise ValueError(f"expected a key in {file}, it cannot be read: {error.strerror or error}") from error
        return _checked(text, str(file))
    text = environment.get(API_KEY_VARIABLE, "").strip()
    return _checked(text, API_KEY_VARIABLE) if text else None


def bearer(api_key: str | None) -> dict[str, str]:
    """The header that sends a key; none without a key.

    `Authorization` and not `X-API-Key`: clients take it away themselves when another host sends them on.

    Raises:
        ValueError: Not what a header can hold; the message never holds it.
    """
    return {} if api_key is None else {"Authorization": f"Bearer {_checked(api_key, 'the API key')}"}


def _checked(text: str, where: str) -> str:
    if not text:
        raise ValueError(f"expected a key in {where}, it is empty")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"expected one key in {where}: a single word of ASCII as `speech-qc keys add` prints it")
    return text
