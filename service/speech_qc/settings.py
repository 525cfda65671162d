"""Every setting of the service, once: type, bound, unit, meaning.

Read from `SPEECHQC_*` environment variables, and below them from the file that `SPEECHQC_CONFIG` names.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from speech_qc.errors import SettingsError
from speech_qc.wire.vocabulary import Device, LogLevel

PACKAGE = Path(__file__).resolve().parent
MODEL_NAME = "speech-qc-base.onnx"
PREFIX = "SPEECHQC_"
CONFIG_VARIABLE = "SPEECHQC_CONFIG"
"""Names the file with settings; a variable only, since a file cannot name itself."""
API_KEY_VARIABLE = "SPEECHQC_API_KEY"
"""The key that clients of this package send; no setting of a server."""

HIDDEN = "**********"
SPARE_CONNECTIONS = 256
"""Beside streams and uploads: pages, scrapes, connections kept alive, and those who are about to be refused."""
RESERVED_CONNECTIONS = 16
"""Beyond the limit, still heard so that health and metrics are answered and others are told why not; whatever comes
beyond these is closed unheard."""


def default_model_path() -> Path:
    """Find the shipped model: inside an installed wheel, else in the checkout's `models/`."""
    packaged = PACKAGE / "models" / MODEL_NAME
    return packaged if packaged.exists() else PACKAGE.parent.parent / "models" / MODEL_NAME


class Settings(BaseSettings):
    """All settings; each field's docstring is its documentation, see `speech_qc.cli.settings.meanings`.

    Raises:
        SettingsError: The file of `SPEECHQC_CONFIG` cannot be read, or holds what is no setting.
        ValidationError: A value outside its type or bounds; `load_settings` turns it into a message.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, allow_inf_nan=False)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What was said outright, then the environment, then the file."""
        return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=file_values())

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8000, ge=1, le=65535)
    """TCP port to listen on."""
    log_level: LogLevel = "info"
    """Least severe level that is logged."""
    log_format: Literal["auto", "text", "json"] = "auto"
    """How a log line is written; `auto`: text on a terminal, else a JSON object per line."""
    otel: bool = False
    """Send a span of every request and stream by OpenTelemetry (extra `otel`); its `OTEL_*` variables say where to."""
    workers: int = Field(default=1, ge=1, le=64)
    """Processes that serve the port together, each with its own engine and its own places for uploads and streams."""

    model_path: Path = Field(default_factory=default_model_path)
    """ONNX model file with its contract in the metadata."""
    device: Device = "auto"
    """Where inference runs; `cuda` refuses to start without a working GPU, `auto` falls back to the CPU and says so."""
    steps_in: Literal["auto", "thread", "loop"] = "auto"
    """Where a process runs its inference steps: in a thread beside the event loop, or in the loop itself, which spares
    the switching where every core has a worker. `auto`: in the loop on the CPU with several workers, else a thread."""
    intra_op_threads: int = Field(default=1, ge=1, le=64)
    """Threads that ONNX Runtime uses inside one step on the CPU."""

    profiles_path: Path | None = None
    """YAML file with verdict profiles that replaces the built-in one."""
    default_profile: str = "default"
    """Verdict profile when a request names none."""

    max_upload_bytes: int = Field(default=512 * 1024 * 1024, ge=1024)
    """Largest request body, bytes."""
    max_duration_s: float = Field(default=4 * 3600.0, gt=0)
    """Longest recording, seconds of audio."""
    max_channels: int = Field(default=8, ge=1, le=64)
    """Most channels in one recording."""
    max_held_bytes: int = Field(default=1024 * 1024 * 1024, ge=1024 * 1024)
    """Most bytes that uploads hold in a process at the same time: recordings other than WAV, which are collected before
    they are read, scores of frames, answers that clients have not taken yet. Further uploads get 429."""
    max_uploads: int = Field(default=8, ge=1, le=1024)
    """Uploads inspected at the same time; further ones get 429."""
    max_streams: int = Field(default=100, ge=1, le=65536)
    """Found with `speech-qc capacity` on two cores; measure your own machine.

    Live channels at the same time, so that a stereo stream counts as two; further streams are refused with 1013."""
    stream_idle_s: float = Field(default=30.0, gt=0)
    """A live stream that sends neither audio nor KeepAlive for so many seconds is closed."""
    stream_send_timeout_s: float = Field(default=5.0, gt=0)
    """A client that takes no message for so many seconds is told; after as many more it is cut off."""
    stream_send_queue_bytes: int = Field(default=64 * 1024, ge=4096)
    """Messages to one client that may wait to be sent, bytes; when they are full, scoring of its audio pauses."""
    stream_max_ahead_s: float = Field(default=1.0, ge=0.2, le=60)
    """Seconds of audio of one live stream that may wait to be scored; beyond, its socket is not read."""
    stream_max_message_bytes: int = Field(default=1024 * 1024, ge=4096)
    """Largest binary message of a live stream, bytes; a larger one closes it with 1009."""
    max_events: int = Field(default=10_000, ge=1)
    """Events kept per channel; later ones are counted but not listed."""

    max_batch: int = Field(default=128, ge=1, le=1024)
    """Most chunks in one inference step."""
    live_chunk_hops: int = Field(default=10, ge=2, le=100, multiple_of=2)
    """Hops of 10 ms that one live chunk holds."""
    upload_chunk_hops: int = Field(default=400, ge=2, le=6000, multiple_of=2)
    """Hops of 10 ms that one chunk of an upload holds; bounds how long a live chunk can wait for an upload's step."""
    step_deadline_s: float = Field(default=30.0, gt=0)
    """A chunk that waited longer than this is given up, seconds."""
    max_step_failures: int = Field(default=3, ge=1)
    """Failed steps in a row after which the engine counts as dead."""
    exit_when_dead_s: float = Field(default=10.0, ge=0, le=3600)
    """Seconds from the engine's death to the end of the process, with exit code 70, so that whatever watches over it
    starts another one. A process whose event loop has stood still for `step_deadline_s`, and for 10 s at least, ends
    likewise. 0: neither; it stays, and is not ready."""
    drain_s: float = Field(default=30.0, ge=0)
    """Longest from the signal to the end of the process, seconds, but at least 2. A quarter of it, 2 s at most, is kept
    for telling those whose work could not be finished."""
    model_watch_s: float = Field(default=0.0, ge=0, le=3600)
    """Seconds between two looks at the model file; when it has changed and stays so, it is loaded anew. 0: never."""

    api_keys_file: Path | None = None
    """File of `speech-qc keys`; with it every request but those below needs one of its keys. Read again when it
    changes."""
    allow_anonymous: bool = False
    """Serve without keys on an address that other machines reach; only where something else keeps strangers out."""
    health_needs_key: bool = False
    """Whether `/health/live` and `/health/ready` need a key, too, where there are keys."""
    metrics_needs_key: bool = False
    """Whether `/metrics` needs a key, too, where there are keys."""
    key_max_streams: int | None = Field(default=None, ge=1)
    """Live channels at the same time of one key that has no bound of its own, in each process; unset: no bound."""
    key_max_uploads: int | None = Field(default=None, ge=1)
    """Uploads at the same time of one key, in each process; unset: no bound, so that one key can take all places."""
    key_uploads_per_minute: int | None = Field(default=None, ge=1)
    """Uploads a minute of one key that has no bound of its own, in each process; unset: no bound."""
    token_s: float = Field(default=60.0, gt=0, le=3600)
    """Seconds for which a token of `POST /v1/token` opens streams."""
    token_secret: SecretStr | None = Field(default=None, min_length=16)
    """Signs tokens; set the same one on all servers behind a balancer. Unset: a new one at every start."""
    allowed_origins: str = ""
    """Comma-separated origins (`https://app.example.com`) whose web pages may call from a browser; `*`: all. Pages of
    this server itself always may."""

    max_connections: int = Field(default=0, ge=0, le=1_000_000)
    """Connections that one process takes at the same time, whatever they ask; further ones get 503, but for health and
    metrics. 0: the places for streams and uploads, and 256 more."""
    max_header_bytes: int = Field(default=32 * 1024, ge=4096, le=1024 * 1024)
    """Largest head of a request: its first line and all headers, bytes."""
    max_query_bytes: int = Field(default=4096, ge=256, le=64 * 1024)
    """Longest query of a request, bytes."""
    header_timeout_s: float = Field(default=10.0, gt=0)
    """A connection whose request's head is not complete after so many seconds is cut."""
    keep_alive_s: float = Field(default=20.0, gt=0)
    """A connection that waits for its next request is closed after so many seconds. Set it longer than clients and
    balancers in front keep theirs, or a request may cross the close."""
    read_timeout_s: float = Field(default=30.0, gt=0)
    """A client that takes nothing of its HTTP answer for so many seconds is cut."""
    read_min_bytes_per_s: int = Field(default=5000, ge=0)
    """A client that takes its HTTP answer more slowly than this, on average over `read_timeout_s`, is cut; 0: never."""
    upload_idle_s: float = Field(default=30.0, gt=0)
    """An upload of which nothing comes for so many seconds is given up."""
    upload_timeout_s: float = Field(default=3600.0, gt=0)
    """Longest wait for all bytes of one upload, seconds; the time that this server takes for them does not count."""
    upload_min_bytes_per_s: int = Field(default=500, ge=0)
    """An upload that comes more slowly than this on average is given up once `upload_idle_s` have passed; 0: never."""
    upload_deadline_s: float = Field(default=900.0, gt=0)
    """Longest work on one upload, decoding and inference together, seconds; waiting for its bytes does not count."""
    max_decoded_samples: int = Field(default=4_000_000_000, ge=8000)
    """Most samples that one recording may decode to, all channels together, whatever its compressed size."""

    @property
    def connections_limit(self) -> int:
        """What `max_connections` comes to."""
        return self.max_connections or self.max_streams + self.max_uploads + SPARE_CONNECTIONS


def load_settings(**overrides: object) -> Settings:
    """Read file and environment and check every value.

    Args:
        overrides: Field values that win over both (command-line options); None means not given.

    Raises:
        SettingsError: One line per wrong value, each with the variable, the value and the bound.
    """
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        lines = [_complaint(dict(found), overrides) for found in error.errors()]
        # Not `from error`: pydantic's message quotes every value, and a traceback would print secrets.
        raise SettingsError("wrong settings:\n  " + "\n  ".join(lines)) from None


def file_values() -> dict[str, Any]:
    """Settings of the file that `SPEECHQC_CONFIG` names; none without one.

    Raises:
        SettingsError: It cannot be read, is neither TOML nor YAML, or names what is no setting.
    """
    name = os.environ.get(CONFIG_VARIABLE)
    if not name:
        return {}
    path = Path(name)
    where = f"{CONFIG_VARIABLE}={name!r}"
    try:
        found = _parse(path.suffix.lower(), path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise SettingsError(f"{where}: expected text in UTF-8, came something else") from error
    except OSError as error:
        raise SettingsError(f"{where}: expected a file that can be read, got {error.strerror or error}") from error
    except ValueError as error:
        raise SettingsError(f"{where}: {error}") from error
    if not isinstance(found, dict):
        raise SettingsError(f"{where}: expected a name and a value for each setting, came a {type(found).__name__}")
    unknown = sorted(str(key) for key in found if key not in Settings.model_fields)
    if unknown:
        raise SettingsError(
            f"{where}: no such settings: {', '.join(unknown)}; names are those of docs/settings.md, in lower case and "
            f"without {PREFIX}"
        )
    return found


def _parse(suffix: str, text: str) -> Any:
    """Read TOML or YAML; raises ValueError, of which TOML's own error is one."""
    if suffix == ".toml":
        return tomllib.loads(text)
    if suffix in (".yaml", ".yml"):
        import yaml  # here, since few need it and a command line should start quickly

        try:
            found = yaml.safe_load(text)
        except yaml.YAMLError as error:
            # Its own text quotes the line, which may be that of a secret; `from None`, or a traceback would have it.
            mark = getattr(error, "problem_mark", None)
            where = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
            raise ValueError(f"expected YAML, came something else{where}") from None
        return {} if found is None else found
    raise ValueError(f"expected a name that ends in .toml, .yaml or .yml, came {suffix or 'no ending'}")


def is_secret(name: str) -> bool:
    """Whether a setting's value must not be shown: a pydantic secret, or one that is named like a secret."""
    annotation = Settings.model_fields[name].annotation
    if annotation is bool:  # `metrics_needs_key` is about keys, and none itself
        return False
    return "Secret" in str(annotation) or name.endswith(("_key", "_keys", "_token", "_secret", "_password"))


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Variables with our prefix that set nothing: misspelt, or of another version."""
    known = {PREFIX + name.upper() for name in Settings.model_fields} | {CONFIG_VARIABLE, API_KEY_VARIABLE}
    return sorted(name for name in environment if name.startswith(PREFIX) and name.upper() not in known)


def _complaint(found: dict[str, Any], overrides: Mapping[str, object]) -> str:
    """One wrong value: its name, what it is, where it stands if that is a file, what it must be."""
    variable = PREFIX + "_".join(str(part) for part in found["loc"]).upper()
    field = str(found["loc"][0]) if found["loc"] else ""
    value = HIDDEN if field in Settings.model_fields and is_secret(field) else repr(found.get("input"))
    said = overrides.get(field) is not None or variable in {name.upper() for name in os.environ}
    place = "" if said or CONFIG_VARIABLE not in os.environ else f" in {os.environ[CONFIG_VARIABLE]}"
    return f"{variable}={value}{place}: {found['msg']}"
