"""API keys: how they are made, kept, and checked. Knows files and hashes, no HTTP.

A key is `sqc_<id>_<secret>`; the secret is 256 random bits. The file keeps SHA-256 of the whole key, without salt and
without stretching: both protect passwords that people choose, by making guesses slow and tables useless. There is no
table and no guessing of 256 random bits, whatever a hash costs, and a slow hash at every request would be a way to
exhaust the server.

A token is `sqt_<id>_<end>_<signature>`: it stands for a key for a minute where a key should not be seen, as in the
address of a WebSocket. The server keeps no list of them; the signature is an HMAC over id and end.
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
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from speech_qc.errors import SettingsError, Unauthorized
from speech_qc.file_stamp import file_stamp

logger = logging.getLogger(__name__)

SECRET_BYTES = 32
ID_BYTES = 5
LOOK_S = 1.0
"""Seconds between two looks at whether the file has changed: a key that was removed is of use no longer than that."""

_KEY = re.compile(r"sqc_([0-9a-f]{10})_[A-Za-z0-9_-]{43}")
_TOKEN = re.compile(r"sqt_([0-9a-f]{10})_([0-9]{1,12})_([0-9a-f]{64})")
_NOBODY = hashlib.sha256(b"").hexdigest()
"""Compared with where no key has the id, so that the time tells nothing of which ids exist."""

ASK = "send a key as 'Authorization: Bearer <key>' or 'X-API-Key: <key>'; 'speech-qc keys add NAME' makes one"


class Key(BaseModel):
    """One key as the file has it; a line of JSON each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[0-9a-f]{10}$")
    name: str = Field(min_length=1, max_length=100)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    admin: bool = False
    """May also reload the model."""
    max_streams: int | None = Field(default=None, ge=1)
    uploads_per_minute: int | None = Field(default=None, ge=1)


def make_key(
    name: str, *, admin: bool = False, max_streams: int | None = None, uploads_per_minute: int | None = None
) -> tuple[str, Key]:
    """Make a new key.

    Returns:
        The key itself, which nobody can find out again, and what the file keeps of it.

    Raises:
        SettingsError: A name or bound that cannot be used.
    """
    identity = secrets.token_hex(ID_BYTES)
    text = f"sqc_{identity}_{secrets.token_urlsafe(SECRET_BYTES)}"
    try:
        key = Key(
            id=identity, name=name, sha256=digest(text), admin=admin, max_streams=max_streams,
            uploads_per_minute=uploads_per_minute,
        )  # fmt: skip
    except ValidationError as error:
        raise SettingsError(
            f"a key cannot be made so: {error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}"
        ) from None
    return text, key


def digest(text: str) -> str:
    """What the file keeps of a key."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_keys(path: Path) -> list[Key]:
    """Read a keys file.

    Raises:
        SettingsError: It cannot be read, or a line is no key, or two have the same id.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"expected a keys file at {path}, it cannot be read ({error}); "
                            "'speech-qc keys add NAME --file FILE' makes one") from error  # fmt: skip
    keys: list[Key] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            keys.append(Key.model_validate_json(line))
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, found["loc"])) or "line"
            raise SettingsError(f"{path}, line {number}: expected a key as 'speech-qc keys add' writes it; "
                                f"{place}: {found['msg']}") from None  # fmt: skip
    if len({key.id for key in keys}) != len(keys):
        raise SettingsError(f"{path}: two keys have the same id; remove one of them")
    return keys


def write_keys(path: Path, keys: Iterable[Key]) -> None:
    """Write a keys file, whole or not at all, for its owner alone.

    Raises:
        SettingsError: It cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    text = "".join(json.dumps(key.model_dump(exclude_defaults=True)) + "\n" for key in keys)
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        if path.exists():  # whoever may read it now, as the user of a container, still may
            os.chmod(beside, path.stat().st_mode & 0o777)
        os.replace(beside, path)
    except OSError as error:
        with suppress(OSError):  # as on a full disk: nothing is left of the attempt
            os.unlink(beside)
        raise SettingsError(f"the keys file {path} cannot be written: {error}; it is as it was") from error


class KeyRing:
    """The keys of a server; reads the file again when it has changed, so that a removed key is soon of no use.

    Args:
        path: The file.
        token_secret: Signs tokens.
        token_s: Seconds that a token lasts.
        clock: Monotonic seconds.
        wall_clock: Seconds since 1970, the same on all servers.

    Raises:
        SettingsError: The file cannot be used, or holds no key, so that nobody could come in.
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
                f"{path} holds no key, so nobody could use the server; add one: speech-qc keys add NAME"
            )
        self._looked_s = clock()

    def check(self, text: str) -> Key:
        """Find the owner of a key.

        Raises:
            Unauthorized: It is none of the file's.
        """
        self._look()
        found = _KEY.fullmatch(text)
        key = self._keys.get(found[1]) if found else None
        if not hmac.compare_digest(digest(text), key.sha256 if key else _NOBODY) or key is None:
            raise Unauthorized(f"the key is not one of this server's; {ASK}")
        return key

    def make_token(self, key: Key) -> str:
        """Make a token that stands for a key for `token_s` seconds."""
        end = str(int(self._wall_clock() + self.token_s))
        return f"sqt_{key.id}_{end}_{self._sign(key, end)}"

    def check_token(self, text: str) -> Key:
        """Find the key that a token stands for.

        Raises:
            Unauthorized: It is none, its time is over, or the key is gone.
        """
        self._look()
        found = _TOKEN.fullmatch(text)
        key = self._keys.get(found[1]) if found else None
        if found is None or key is None or not hmac.compare_digest(self._sign(key, found[2]), found[3]):
            raise Unauthorized("the token is not one of this server's; POST /v1/token gives one for a key")
        if int(found[2]) < self._wall_clock():
            raise Unauthorized("the time of the token is over; POST /v1/token gives a new one")
        return key

    def _sign(self, key: Key, end: str) -> str:
        # The key's hash is in it, so that a key that is replaced takes its tokens along.
        return hmac.new(self._secret, f"{key.id}.{key.sha256}.{end}".encode(), hashlib.sha256).hexdigest()

    def _look(self) -> None:
        """Read the file anew when it has changed; one that cannot be used changes nothing and is logged."""
        now_s = self._clock()
        if now_s - self._looked_s < LOOK_S:
            return
        self._looked_s = now_s
        stamp = file_stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = {key.id: key for key in read_keys(self._path)}
        except SettingsError as error:
            logger.error("the keys stay as they were: %s", error.message)
        else:
            logger.info("the keys were read again: %d", len(self._keys))
