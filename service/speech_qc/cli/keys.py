"""The `keys` commands: create, list and change a keys file; a running server reloads it automatically."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from speech_qc.cli.seams import CommandError
from speech_qc.exit_codes import OK
from speech_qc.security.api_keys import Key, make_key, read_keys, write_keys
from speech_qc.settings import load_settings
from speech_qc.wire.vocabulary import Right


def add(
    name: str,
    file: Path | None,
    *,
    admin: bool,
    rights: Sequence[Right],
    max_streams: int | None,
    uploads_per_minute: int | None,
) -> int:
    """Create a key; only the key goes to standard output, so that it can be piped.

    Raises:
        SettingsError: The file is invalid or cannot be written.
        CommandError: No file was given.
    """
    path = _path(file)
    text, key = make_key(
        name, admin=admin, rights=rights, max_streams=max_streams, uploads_per_minute=uploads_per_minute
    )
    write_keys(path, [*(read_keys(path) if path.exists() else []), key])
    sys.stdout.write(text + "\n")
    sys.stderr.write(f"key {key.id} for {name!r} added to {path}; it is shown only once and cannot be recovered\n")
    return OK


def show(file: Path | None) -> int:
    """Print a line per key; raises the same errors as `add`."""
    for key in read_keys(_path(file)):
        sys.stdout.write(f"{key.id}  {_line(key)}\n")
    return OK


def remove(wanted: str, file: Path | None) -> int:
    """Remove a key by its id or name; raises the same errors as `add`, and CommandError unless one key matches."""
    path = _path(file)
    keys = read_keys(path)
    found = [key for key in keys if key.id == wanted] or [key for key in keys if key.name == wanted]
    if len(found) != 1:
        raise CommandError(
            f"expected the id or name of one key in {path}, {wanted!r} matches {len(found)}: see 'speech-qc keys list'"
        )
    write_keys(path, [key for key in keys if key is not found[0]])
    sys.stderr.write(f"key {found[0].id} for {found[0].name!r} removed from {path}\n")
    return OK


def _path(file: Path | None) -> Path:
    path = file or load_settings().api_keys_file
    if path is None:
        raise CommandError("expected a keys file: set it with --file or SPEECHQC_API_KEYS_FILE")
    return path


def _line(key: Key) -> str:
    bounds = [
        "admin" if key.admin else "",
        "" if key.rights is None else f"may {' and '.join(key.rights)}",
        "" if key.max_streams is None else f"{key.max_streams} streams",
        "" if key.uploads_per_minute is None else f"{key.uploads_per_minute} uploads a minute",
    ]
    return ", ".join([key.name, *filter(None, bounds)])
