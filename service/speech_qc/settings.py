"""All settings of the service, each declared once with type, bounds, unit and meaning.

They are read from `SPEECHQC_*` environment variables and, with lower precedence, from the file in `SPEECHQC_CONFIG`.
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
"""Names the settings file; only an environment variable, because a file cannot name itself."""
API_KEY_VARIABLE = "SPEECHQC_API_KEY"
"""The key that clients of this package send; not a setting of the server."""

HIDDEN = "**********"
SPARE_CONNECTIONS = 256
"""Connections in addition to streams and uploads: pages, scrapes, idle connections, requests about to be refused."""
RESERVED_CONNECTIONS = 16
"""Connections above the limit that are still read, so that health and metrics work and other requests get an error;
further connections are closed without reading."""


def default_model_path() -> Path:
    """Find the shipped model: inside an installed wheel, else in the checkout's `models/`."""
    packaged = PACKAGE / "models" / MODEL_NAME
    return packaged if packaged.exists() else PACKAGE.parent.parent / "models" / MODEL_NAME


class Settings(BaseSettings):
    """All settings; each field's docstring is its documentation, see `speech_qc.cli.settings.meanings`.

    Raises:
        SettingsError: The file in `SPEECHQC_CONFIG` cannot be read or contains an unknown setting.
        ValidationError: A value has the wrong type or is out of bounds; `load_settings` turns this into a message.
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
        """Order of precedence: explicit values, environment, file."""
        return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=file_values())

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8000, ge=1, le=65535)
    """TCP port to listen on."""
    log_level: LogLevel = "info"
    """Minimum level that is logged."""
    log_format: Literal["auto", "text", "json"] = "auto"
    """Format of log lines; `auto`: text on a terminal, otherwise one JSON object per line."""
    otel: bool = False
    """Send a span for every request and stream with OpenTelemetry (extra `otel`); `OTEL_*` variables configure it."""
    workers: int = Field(default=1, ge=1, le=64)
    """Number of processes that share the port, each with its own engine and its own places for uploads and streams."""

    model_path: Path = Field(default_factory=default_model_path)
    """ONNX model file with its contract in the metadata."""
    device: Device = "auto"
    """Where inference runs; `cuda` refuses to start without a working GPU, `auto` falls back to the CPU and logs it."""
    steps_in: Literal["auto", "thread", "loop"] = "auto"
    """Where a process runs its inference steps: in a separate thread, or in the event loop, which saves thread switches
    if every core has a worker. `auto`: in the loop on the CPU with several workers, otherwise in a thread."""
    intra_op_threads: int = Field(default=1, ge=1, le=64)
    """Number of threads that ONNX Runtime uses in one step on the CPU."""

    profiles_path: Path | None = None
    """YAML file with verdict profiles; it replaces the built-in one."""
    default_profile: str = "default"
    """Verdict profile of requests that name none."""

    max_upload_bytes: int = Field(default=512 * 1024 * 1024, ge=1024)
    """Largest request body, bytes."""
    max_duration_s: float = Field(default=4 * 3600.0, gt=0)
    """Longest recording, seconds of audio."""
    max_channels: int = Field(default=8, ge=1, le=64)
    """Maximum channels in one recording."""
    max_held_bytes: int = Field(default=1024 * 1024 * 1024, ge=1024 * 1024)
    """Maximum memory for uploads in a process, bytes: recordings other than WAV, which are buffered before decoding,
    frame scores, and responses that clients have not read yet. Further uploads get 429."""
    max_uploads: int = Field(default=8, ge=1, le=1024)
    """Maximum uploads inspected at the same time; further ones get 429."""
    max_streams: int = Field(default=100, ge=1, le=65536)
    """Maximum live channels at the same time; a stereo stream counts as two. Further streams are refused with 1013.

    The default was found with `speech-qc capacity` on two cores; measure your own machine."""
    stream_idle_s: float = Field(default=30.0, gt=0)
    """Seconds without audio or KeepAlive after which a live stream is closed."""
    stream_send_timeout_s: float = Field(default=5.0, gt=0)
    """Seconds after which a client that reads no message is sent an error; after the same time again it is
    disconnected."""
    stream_send_queue_bytes: int = Field(default=64 * 1024, ge=4096)
    """Size of the send queue of one client, bytes; while it is full, scoring of the client's audio pauses."""
    stream_max_ahead_s: float = Field(default=1.0, ge=0.2, le=60)
    """Maximum audio of one live stream that can wait to be scored, seconds; beyond it, the socket is not read."""
    stream_max_message_bytes: int = Field(default=1024 * 1024, ge=4096)
    """Largest binary message of a live stream, bytes; a larger one closes the stream with 1009."""
    show_digits: bool = False
    """Name the telephone keys (DTMF) that are heard. Callers key in card numbers and PINs, so by default every answer
    has one `*` per key instead."""
    max_events: int = Field(default=10_000, ge=1)
    """Maximum events listed per channel; later ones are only counted."""

    max_calls: int = Field(default=0, ge=0, le=65536)
    """Maximum calls of one process at the same time; a leg that would begin a further one is refused. 0: as many as
    `max_streams`, so that a process never has more calls than legs. A call takes about 0.2 MB."""
    call_max_s: float = Field(default=12 * 3600.0, gt=0)
    """Longest call, seconds; then it ends, and its legs are scored without it."""
    call_wait_s: float = Field(default=5.0, ge=0, le=600)
    """Seconds for which a call waits, when all of its legs have ended, for a leg that may still come: the second one,
    or one whose connection was lost. A call of two legs whose senders said that they are over does not wait."""

    max_batch: int = Field(default=128, ge=1, le=1024)
    """Maximum chunks in one inference step."""
    collect_ms: float = Field(default=10.0, ge=0, le=100)
    """Longest time that a step of live audio waits for more chunks, milliseconds: this long if steps take all of the
    time, not at all if they take little of it."""
    live_chunk_hops: int = Field(default=10, ge=2, le=100, multiple_of=2)
    """Hops of 10 ms in one live chunk."""
    upload_chunk_hops: int = Field(default=400, ge=2, le=6000, multiple_of=2)
    """Hops of 10 ms in one chunk of an upload; limits how long a live chunk can wait for an upload's step."""
    step_deadline_s: float = Field(default=30.0, gt=0)
    """Seconds after which a chunk that is still queued is dropped."""
    max_step_failures: int = Field(default=3, ge=1)
    """Consecutive failed steps after which the engine is considered dead."""
    exit_when_dead_s: float = Field(default=10.0, ge=0, le=3600)
    """Seconds from the engine's death until the process exits with code 70, so that its supervisor starts a new one. A
    process whose event loop has been blocked for `step_deadline_s`, but at least 10 s, exits in the same way. 0: the
    process does not exit in either case; it keeps running, but is not ready."""
    drain_s: float = Field(default=30.0, ge=0)
    """Maximum time from the signal to the end of the process, seconds, but at least 2. A quarter of it, at most 2 s, is
    reserved to notify clients whose work could not be finished."""
    model_watch_s: float = Field(default=0.0, ge=0, le=3600)
    """Seconds between two checks of the model file; it is reloaded when it has changed and is stable. 0: never."""

    api_keys_file: Path | None = None
    """File written by `speech-qc keys`; with it, every request needs one of its keys, except those for pages, health
    and metrics. It is reread when it changes."""
    allow_anonymous: bool = False
    """Serve without keys on an address that other machines can reach; only if something else restricts access."""
    health_needs_key: bool = False
    """Whether `/health/live` and `/health/ready` also need a key, if keys are used."""
    metrics_needs_key: bool = False
    """Whether `/metrics` also needs a key, if keys are used."""
    key_max_streams: int | None = Field(default=None, ge=1)
    """Maximum live channels at the same time, per process, for a key without its own limit; unset: no limit."""
    key_max_uploads: int | None = Field(default=None, ge=1)
    """Maximum uploads at the same time, per process, for one key; unset: no limit, so one key can take all places."""
    key_uploads_per_minute: int | None = Field(default=None, ge=1)
    """Maximum uploads per minute, per process, for a key without its own limit; unset: no limit."""
    token_s: float = Field(default=60.0, gt=0, le=3600)
    """Seconds during which a token of `POST /v1/token` can open streams."""
    token_secret: SecretStr | None = Field(default=None, min_length=16)
    """Secret that signs tokens; use the same on all servers behind a load balancer. Unset: a new one at every start."""
    allowed_origins: str = ""
    """Comma-separated origins (`https://app.example.com`) whose web pages may call the server from a browser; `*`: all.
    The server's own pages are always allowed."""

    results_url: SecretStr | None = None
    """Database that keeps calls and their events: `sqlite:////path/calls.db`, or `postgresql://user:password@host/db`
    (extra `postgres`), which several servers can share. Unset: in memory, until the server stops."""
    results_keep_s: float = Field(default=86_400.0, gt=0)
    """Seconds after which a call that has ended is deleted with its events, and a webhook that could not be delivered
    is abandoned."""
    results_max_calls: int = Field(default=1000, ge=1)
    """Maximum calls kept, live ones included; beyond it, the oldest that have ended are deleted."""
    results_max_events: int = Field(default=20_000, ge=100)
    """Maximum events kept, of all calls together; beyond it, the oldest are deleted."""
    results_max_waiting: int = Field(default=10_000, ge=100)
    """Maximum events that a process holds in memory while the database does not answer; `scores` may take half of it.
    Further ones are dropped and counted."""
    max_watchers: int = Field(default=64, ge=1, le=10_000)
    """Maximum open `GET /v1/watch` of one process; further ones get 429."""
    webhook_urls: SecretStr | None = None
    """Comma-separated URLs (`https://…`) to which events of calls are posted."""
    webhook_secret: SecretStr | None = None
    """Secret that signs webhooks, `whsec_` and base64 of 24 to 64 bytes; two, separated by a comma, while you replace
    one. Needed for `webhook_urls`."""
    webhook_events: str = "call.started,event.begin,event.end,call.ended"
    """Comma-separated kinds of events that are posted; `scores`, once a second for each call, is possible, too."""
    webhook_timeout_s: float = Field(default=15.0, ge=1, le=60)
    """Seconds after which a receiver that has not responded to a webhook has failed."""
    telephony_idle_s: float = Field(default=3600.0, gt=0)
    """Seconds without a message after which a phone call's socket is closed. Many systems send nothing on hold; lost
    connections are found by WebSocket pings."""
    telephony_events: bool = True
    """Send events, and the means of scores once a second, to the phone systems that take them: FreeSWITCH, Genesys."""
    telephony_show: str = ""
    """Comma-separated names of facts about a call that are shown, such as `from,queue`; `*`: all. Others, such as
    callers' numbers and custom parameters, are `***`."""
    telephony_url: str | None = None
    """Public address of the server, such as `wss://qc.example.com`, with the scheme that the vendor's console has.
    Signatures of phone systems cover it, and behind a proxy the server cannot know it."""
    twilio_auth_token: SecretStr | None = None
    """Twilio's auth token. If set, sockets of Twilio need its signature, or a key."""
    plivo_auth_token: SecretStr | None = None
    """Plivo's auth token. If set, sockets of Plivo need its signature (V3), or a key."""
    genesys_api_key: SecretStr | None = None
    """API key of the AudioHook integration; it names the secret."""
    genesys_secret: SecretStr | None = None
    """Client secret of the AudioHook integration, base64. If set, sockets of Genesys need its signature, or a key."""
    audiosocket: str | None = None
    """`host:port` on which to listen for Asterisk AudioSocket (TCP); unset: not at all. It has no authentication."""
    audiosocket_allow: str = "127.0.0.1,::1"
    """Comma-separated addresses or networks that may connect to `audiosocket`."""

    max_connections: int = Field(default=0, ge=0, le=1_000_000)
    """Maximum connections to one process at the same time; further ones get 503, except for health and metrics. 0: the
    places for streams and uploads, plus 256."""
    max_header_bytes: int = Field(default=32 * 1024, ge=4096, le=1024 * 1024)
    """Maximum size of a request line and all its headers, bytes."""
    max_query_bytes: int = Field(default=4096, ge=256, le=64 * 1024)
    """Maximum length of a query string, bytes."""
    header_timeout_s: float = Field(default=10.0, gt=0)
    """Seconds after which a connection is closed if the headers of its request are incomplete."""
    keep_alive_s: float = Field(default=20.0, gt=0)
    """Seconds after which an idle connection is closed. Set it longer than the keep-alive of clients and of load
    balancers, or a request may race with the close."""
    read_timeout_s: float = Field(default=30.0, gt=0)
    """Seconds after which a client that reads nothing of its HTTP response is disconnected."""
    read_min_bytes_per_s: int = Field(default=5000, ge=0)
    """Minimum rate at which a client must read its HTTP response, on average over `read_timeout_s`; a slower one is
    disconnected. 0: no minimum."""
    upload_idle_s: float = Field(default=30.0, gt=0)
    """Seconds without data after which an upload is aborted."""
    upload_timeout_s: float = Field(default=3600.0, gt=0)
    """Maximum time to receive one upload, seconds; the time that the server spends processing it does not count."""
    upload_min_bytes_per_s: int = Field(default=500, ge=0)
    """Minimum average rate of an upload; a slower one is aborted once `upload_idle_s` have passed. 0: no minimum."""
    upload_deadline_s: float = Field(default=900.0, gt=0)
    """Maximum time to process one upload, decoding and inference together, seconds; waiting for data does not count."""
    max_decoded_samples: int = Field(default=4_000_000_000, ge=8000)
    """Maximum samples that one recording can decode to, all channels together, whatever its compressed size."""

    @property
    def calls_limit(self) -> int:
        """The effective value of `max_calls`."""
        return self.max_calls or self.max_streams

    @property
    def connections_limit(self) -> int:
        """The effective value of `max_connections`."""
        return self.max_connections or self.max_streams + self.max_uploads + SPARE_CONNECTIONS


def load_settings(**overrides: object) -> Settings:
    """Read the settings from file and environment and check every value.

    Args:
        overrides: Field values that take precedence over both (command-line options); None means not given.

    Raises:
        SettingsError: One line per invalid value, each with the variable, the value and the bound.
    """
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        lines = [_complaint(dict(found), overrides) for found in error.errors()]
        # Not `from error`: pydantic's message quotes every value, and a traceback would print secrets.
        raise SettingsError("invalid settings:\n  " + "\n  ".join(lines)) from None


def file_values() -> dict[str, Any]:
    """Return the settings in the file that `SPEECHQC_CONFIG` names; empty without one.

    Raises:
        SettingsError: The file cannot be read, is neither TOML nor YAML, or contains an unknown setting.
    """
    name = os.environ.get(CONFIG_VARIABLE)
    if not name:
        return {}
    path = Path(name)
    where = f"{CONFIG_VARIABLE}={name!r}"
    try:
        found = _parse(path.suffix.lower(), path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise SettingsError(f"{where}: expected text in UTF-8, got other bytes") from error
    except OSError as error:
        raise SettingsError(f"{where}: expected a readable file, got {error.strerror or error}") from error
    except ValueError as error:
        raise SettingsError(f"{where}: {error}") from error
    if not isinstance(found, dict):
        raise SettingsError(f"{where}: expected a name and a value for each setting, got a {type(found).__name__}")
    unknown = sorted(str(key) for key in found if key not in Settings.model_fields)
    if unknown:
        raise SettingsError(
            f"{where}: unknown settings: {', '.join(unknown)}; use the names in docs/settings.md, in lower case and "
            f"without {PREFIX}"
        )
    return found


def _parse(suffix: str, text: str) -> Any:
    """Parse TOML or YAML; raise ValueError if it is invalid (TOML's own error is a subclass)."""
    if suffix == ".toml":
        return tomllib.loads(text)
    if suffix in (".yaml", ".yml"):
        import yaml  # here, because it is rarely needed and the command line should start quickly

        try:
            found = yaml.safe_load(text)
        except yaml.YAMLError as error:
            # PyYAML's message quotes the line, which may contain a secret; `from None` keeps it out of tracebacks.
            mark = getattr(error, "problem_mark", None)
            where = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
            raise ValueError(f"expected valid YAML, got a syntax error{where}") from None
        return {} if found is None else found
    raise ValueError(f"expected a file name that ends in .toml, .yaml or .yml, got {suffix or 'no suffix'}")


def is_secret(name: str) -> bool:
    """Whether a setting's value must not be shown: a pydantic secret, or a setting named like one."""
    annotation = Settings.model_fields[name].annotation
    if annotation is bool:  # `metrics_needs_key` is about keys but is not a secret
        return False
    return "Secret" in str(annotation) or name.endswith(("_key", "_keys", "_token", "_secret", "_password"))


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Return the variables with our prefix that are not settings: misspelt, or from another version."""
    known = {PREFIX + name.upper() for name in Settings.model_fields} | {CONFIG_VARIABLE, API_KEY_VARIABLE}
    return sorted(name for name in environment if name.startswith(PREFIX) and name.upper() not in known)


def _complaint(found: dict[str, Any], overrides: Mapping[str, object]) -> str:
    """Describe an invalid value: its name, the value, the file if it is from one, and what is expected."""
    variable = PREFIX + "_".join(str(part) for part in found["loc"]).upper()
    field = str(found["loc"][0]) if found["loc"] else ""
    value = HIDDEN if field in Settings.model_fields and is_secret(field) else repr(found.get("input"))
    not_in_file = overrides.get(field) is not None or variable in {name.upper() for name in os.environ}
    source = "" if not_in_file or CONFIG_VARIABLE not in os.environ else f" in {os.environ[CONFIG_VARIABLE]}"
    return f"{variable}={value}{source}: {found['msg']}"
