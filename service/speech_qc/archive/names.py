"""What recordings are called in results: always the same, and always text that JSON and Parquet can hold.

A local file is called by its absolute path. File systems also have names that are not UTF-8; such a file is called by a
`file://` URI, in which `%E9` stands for a byte.

Source: RFC 8089, "The file URI scheme".
"""

from __future__ import annotations

import os
import re
from urllib.parse import quote, unquote_to_bytes

_SCHEME = re.compile(r"(?!file://(?:localhost)?/)[a-z][a-z0-9+.-]+://")
_FILE = re.compile(r"file://(?:localhost)?(?=/)")
_CREDENTIALS = re.compile(r"(?<=://)[^/?\"\s]*@")


def is_remote(uri: str) -> bool:
    """Whether it is a URI such as `s3://bucket/key`, not a local path or the `file://` URI of one."""
    return _SCHEME.match(uri) is not None


def local_path(name: str) -> str:
    """Return the path that a `file://` URI stands for; a path as it is."""
    match = _FILE.match(name)
    return name if match is None else os.fsdecode(unquote_to_bytes(_as_bytes(name[match.end() :])))


def name_of(recording: str, folder: str = "") -> str:
    """Return the name of a recording in results.

    Args:
        recording: A path, with bytes that are not UTF-8 as `os.fsdecode` gives them; or a URI.
        folder: Where a relative path begins, a path; by default the current folder.

    Returns:
        The absolute path, or its `file://` URI; a URI of a store without credentials, which would be in every row.
    """
    if is_remote(recording):
        return as_text(without_credentials(recording))
    path = local_path(recording)
    path = _normalised(path if os.path.isabs(path) else os.path.join(os.path.abspath(folder), path))
    return path if (text := as_text(path)) == path else f"file://{text}"


def without_credentials(text: str) -> str:
    """Remove from URIs in a text what stands before an `@`."""
    return _CREDENTIALS.sub("…@", text)


def as_text(name: str) -> str:
    """Return a name as it is if it is UTF-8, otherwise with percent signs for its bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return quote(_as_bytes(name), safe="/:")
    return name


def _as_bytes(name: str) -> bytes:
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:  # a surrogate that stands for no byte, which only a manifest can have
        return name.encode("utf-8", "surrogatepass")


def _normalised(path: str) -> str:
    """Remove `.` and doubled slashes, and `..` except behind a link, where it leads to another folder."""
    plain = os.path.normpath(path)
    parts = path.split("/")
    if ".." in parts and "\0" not in path and os.path.realpath(path) != os.path.realpath(plain):
        return "/" + "/".join(part for part in parts if part not in ("", "."))
    return plain
