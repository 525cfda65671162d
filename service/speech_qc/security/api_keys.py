"""API keys: how they are created, stored and checked. Independent of HTTP.

A key is `sqc_<id>_<secret>`; the secret is 256 random bits. The file stores SHA-256 of the whole key, without salt and
without stretching. Both protect passwords that people choose: stretching makes guesses slow, and salt makes precomputed
tables useless. 256 random bits can be neither guessed nor tabulated, however fast the hash is. A slow hash for every
request would only help attackers to exhaust the server.

A token is `sqt_<id>_<end>_<signature>`. It replaces a key for a minute where a key must not be visible, for example in
the URL of a WebSocket. The server stores no tokens; the signature is an HMAC over the id and the end of its validity.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from speech_qc.errors import SettingsError, Unauthorized
from speech_qc.file_stamp import file_stamp
from speech_qc.wire.vocabulary import Right

logger = logging.getLogger(__name__)

SECRET_BYTES = 32
ID_BYTES = 5
CHECK_S = 1.0
"""Seconds between two checks whether the file has changed: a removed key is valid no longer than that."""

_KEY = re.compile(r"sqc_([0-9a-f]{10})_[A-Za-z0-9_-]{43}")
_TOKEN = re.compile(r"sqt_([0-9a-f]{10})_([0-9]{1,12})_([0-9a-f]{64})")
_NO_HASH = hashlib.sha256(b"").hexdigest()
"""Compared with if no key has the id, so that the response time does not reveal which ids exist."""

ASK = "send a key as 'Authorization: Bearer <key>' or 'X-API-Key: <key>'; 'speech-qc keys add NAME' creates one"


class Key(BaseModel):
    """One key as stored in the file, as one line of JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[0-9a-f]{10}$")
    name: str = Field(min_length=1, max_length=100)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    admin: bool = False
    """Has all rights."""
    rights: tuple[Right, ...] | None = None
    """None, as in keys of earlier versions: may send, and nothing else unless it is an admin's."""
    max_streams: int | None = Field(default=None, ge=1)
    uploads_per_minute: int | None = Field(default=None, ge=1)

    def may(self, right: Right) -> bool:
        """Whether the key has a right."""
        granted = ("send",) if self.rights is None else self.rights
        return self.admin or "admin" in granted or right in granted


def make_key(
    name: str,
    *,
    admin: bool = False,
    rights: Sequence[Right] = (),
    max_streams: int | None = None,
    uploads_per_minute: int | None = None,
) -> tuple[str, Key]:
    """Create a new key.

    Returns:
        The key itself, which cannot be recovered later, and its entry for the file.

    Raises:
        SettingsError: The name or a limit is not valid.
    """
    identity = secrets.token_hex(ID_BYTES)
    text = f"sqc_{identity}_{secrets.token_urlsafe(SECRET_BYTES)}"
    try:
        key = Key(
            id=identity, name=name, sha256=digest(text), admin=admin, rights=tuple(dict.fromkeys(rights)) or None,
            max_streams=max_streams, uploads_per_minute=uploads_per_minute,
        )  # fmt: skip
    except ValidationError as error:
        raise SettingsError(
            f"the key cannot be created: {error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}"
        ) from None
    return text, key


def digest(text: str) -> str:
    """Return the hash of a key, as stored in the file."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_keys(path: Path) -> list[Key]:
    """Read a keys file.

    Raises:
        SettingsError: The file cannot be read, a line is not a key, or two keys have the same id.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"expected a keys file at {path}, it cannot be read ({error}): "
                            "create one with 'speech-qc keys add NAME --file FILE'") from error  # fmt: skip
    keys: list[Key] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            keys.append(Key.model_validate_json(line))
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, found["loc"])) or "line"
            raise SettingsError(f"{path}, line {number}: expected a key as written by 'speech-qc keys add'; "
                                f"{place}: {found['msg']}") from None  # fmt: skip
    if len({key.id for key in keys}) != len(keys):
        raise SettingsError(f"{path}: two keys have the same id: remove one of them")
    return keys


def write_keys(path: Path, keys: Iterable[Key]) -> None:
    """Write a keys file atomically; only its owner can read a new one.

    Raises:
        SettingsError: The file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    text = "".join(json.dumps(key.model_dump(exclude_defaults=True)) + "\n" for key in keys)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        if path.exists():  # keep its permissions: another user, as in a container, may have to read it
            os.chmod(temporary, path.stat().st_mode & 0o777)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):  # for example if the disk is full
            os.unlink(temporary)
        raise SettingsError(f"the keys file {path} cannot be written: {error}; it is unchanged") from error


class KeyRing:
    """The keys of a server; reads the file again when it has changed, so that a removed key soon becomes invalid.

    Args:
        path: The keys file.
        token_secret: Signs tokens.
        token_s: Lifetime of a token, seconds.
        clock: Monotonic time, seconds.
        wall_clock: Seconds since 1970, the same on all servers.

    Raises:
        SettingsError: The file cannot be used, or contains no key, so that no client would have access.
    """

    def __init__(
        self,
        path: Path,
        *,
        token_secret: bytes,
        token_s: float,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._path, self._secret, self.token_s = path, token_secret, token_s
        self._clock, self._wall_clock = clock, wall_clock
        self._stamp = file_stamp(path)
        self._keys = {key.id: key for key in read_keys(path)}
        if not self._keys:
            raise SettingsError(
                f"{path} contains no key, so no client could use the server: add one with 'speech-qc keys add NAME'"
            )
        self._checked_s = clock()

    def check(self, text: str) -> Key:
        """Return the key with this text.

        Raises:
            Unauthorized: The file contains no such key.
        """
        self._reread()
        found = _KEY.fullmatch(text)
        key = self._keys.get(found[1]) if found else None
        if not hmac.compare_digest(digest(text), key.sha256 if key else _NO_HASH) or key is None:
            raise Unauthorized(f"the key is not one of this server's: {ASK}")
        return key

    def make_token(self, key: Key) -> str:
        """Create a token that replaces a key for `token_s` seconds."""
        end = str(int(self._wall_clock() + self.token_s))
        return f"sqt_{key.id}_{end}_{self._sign(key, end)}"

    def check_token(self, text: str) -> Key:
        """Return the key that a token replaces.

        Raises:
            Unauthorized: The token is not valid or has expired, or the key was removed.
        """
        self._reread()
        found = _TOKEN.fullmatch(text)
        key = self._keys.get(found[1]) if found else None
        if found is None or key is None or not hmac.compare_digest(self._sign(key, found[2]), found[3]):
            raise Unauthorized("the token is not one of this server's: POST /v1/token issues one for a key")
        if int(found[2]) < self._wall_clock():
            raise Unauthorized("the token has expired: POST /v1/token issues a new one")
        return key

    def _sign(self, key: Key, end: str) -> str:
        # It covers the key's hash, so that replacing a key invalidates its tokens.
        return hmac.new(self._secret, f"{key.id}.{key.sha256}.{end}".encode(), hashlib.sha256).hexdigest()

    def _reread(self) -> None:
        """Read the file again if it has changed; if it cannot be used, log that and keep the current keys."""
        now_s = self._clock()
        if now_s - self._checked_s < CHECK_S:
            return
        self._checked_s = now_s
        stamp = file_stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = {key.id: key for key in read_keys(self._path)}
        except SettingsError as error:
            logger.error("keys not reloaded, the current ones stay in use: %s", error.message)
        else:
            logger.info("keys reloaded: %d", len(self._keys))
