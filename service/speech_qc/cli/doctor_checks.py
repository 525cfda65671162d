"""What `speech-qc doctor` looks at: each check says how it is and, where it is not well, what to do.

A check never raises for what it finds. It changes nothing: the port is bound for a moment and given back.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from speech_qc.errors import SpeechQCError, StartupError, Unauthorized
from speech_qc.settings import PREFIX, RESERVED_CONNECTIONS, Settings, unknown_variables

State = Literal["ok", "warn", "fail"]

SPARE_DESCRIPTORS = 64
"""Files of the process itself: libraries, the log, the event loop, scrapes."""

BASE_MIB, STREAM_MIB = 350, 0.3
"""Memory of a process with its model warm, and of a live channel; rounded up from what benchmarks/RESULTS.md says."""

OLDEST_YEAR = 2025
"""No clock that was ever set shows an earlier one."""

TIME_ERROR = 5
"""What adjtimex(2) returns where nobody keeps the clock."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check found.

    Attributes:
        name: Of the check.
        state: `warn` still serves.
        text: How it is.
        advice: What to do; empty where all is well.
    """

    name: str
    state: State
    text: str
    advice: str = ""


def check_environment(environment: dict[str, str]) -> CheckResult:
    """Whether every variable of ours sets something."""
    unknown = unknown_variables(environment)
    if unknown:
        text = f"{', '.join(unknown)}: no such setting"
        return CheckResult("variables", "warn", text, "see `speech-qc settings` for the names, correct or remove them")
    return CheckResult("variables", "ok", f"every {PREFIX}* variable is a setting")


def check_libraries() -> CheckResult:
    """Whether what is imported is there, once, and reads what it should."""
    text = f"Python {platform.python_version()}"
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version(name)]
    if len(both) == 2:
        advice = "pip uninstall onnxruntime onnxruntime-gpu, then install speech-qc again"
        return CheckResult("libraries", "fail", "onnxruntime and onnxruntime-gpu hide each other", advice)
    if not both:
        return CheckResult("libraries", "fail", "ONNX Runtime is missing", "install speech-qc again")
    text += f", {both[0]} {_version(both[0])}"
    try:
        import soundfile
    except (ImportError, OSError) as error:
        return CheckResult("libraries", "fail", f"libsndfile cannot be loaded: {error}", "install libsndfile1")
    text += f", libsndfile {soundfile.__libsndfile_version__}"
    missing = [name for name in ("FLAC", "OGG", "MP3") if name not in soundfile.available_formats()]
    if missing:
        advice = "install a libsndfile of at least 1.1 to read them"
        return CheckResult("libraries", "warn", f"{text}; it does not read {', '.join(missing)}", advice)
    if not _version("uvloop") and sys.platform != "win32":
        return CheckResult("libraries", "warn", f"{text}; no uvloop", "pip install uvloop: more streams per server")
    return CheckResult("libraries", "ok", text)


def check_model(settings: Settings) -> Iterator[CheckResult]:
    """Whether the model can be served, on which provider, and how long a step takes."""
    import numpy as np

    from speech_qc.app import checked_profiles
    from speech_qc.pipeline.factory import make_runner

    try:
        runner = make_runner(settings)
    except StartupError as error:
        name = "provider" if error.code == StartupError.code else "model"
        yield CheckResult(name, "fail", str(error), "the message says what to mend")
        return
    contract = runner.contract
    yield CheckResult("model", "ok", f"{contract.name} {contract.version} ({runner.sha256[:12]}) fits this service")
    hops = settings.live_chunk_hops
    features = np.zeros((1, hops, contract.features.columns), np.float32)
    state = np.zeros((1, contract.state_size), np.float32)
    try:
        runner.run(features, state)  # the first one is slower
        started_s = time.perf_counter()
        runner.run(features, state)
        step_ms = 1000 * (time.perf_counter() - started_s)
    except SpeechQCError as error:
        yield CheckResult("provider", "fail", f"{runner.provider}: {error}", "the message says what to mend")
        return
    text = f"{runner.provider}, a step of one stream takes {step_ms:.1f} ms"
    if runner.provider_fallback and Path("/dev/nvidia0").exists():
        advice = "install speech-qc[cuda] and a driver that fits, or set SPEECHQC_DEVICE=cpu where that is meant"
        yield CheckResult("provider", "warn", f"{text}, though this machine has a GPU", advice)
    elif runner.provider_fallback:
        advice = "set SPEECHQC_DEVICE=cpu, so that the alert on a lost GPU stays silent"
        yield CheckResult("provider", "ok", f"{text}; there is no GPU", advice)
    else:
        yield CheckResult("provider", "ok", text)
    try:
        profiles = checked_profiles(settings)
    except SpeechQCError as error:
        yield CheckResult("profiles", "fail", str(error), "the message says what to mend")
    else:
        yield CheckResult("profiles", "ok", ", ".join(profiles.names))


def check_port(settings: Settings) -> CheckResult:
    """Whether the address can be listened on."""
    from speech_qc.workers.acceptor import bind_all

    where = f"{settings.host}, port {settings.port}"
    try:
        for one in bind_all(settings.host, settings.port):
            one.close()
    except SpeechQCError as error:
        if (version := _serves(settings)) is not None:
            return CheckResult("port", "ok", f"speech-qc {version} listens on {where}")
        advice = "end what holds it, or set SPEECHQC_PORT or SPEECHQC_HOST"
        return CheckResult("port", "fail", str(error), advice)
    return CheckResult("port", "ok", f"{where} is free")


def check_access(settings: Settings) -> CheckResult:
    """Whether it is said who may come in, and the keys can be read."""
    from speech_qc.security.access_policy import AccessPolicy
    from speech_qc.security.bind_check import check_exposure, is_loopback

    try:
        check_exposure(settings)
        policy = AccessPolicy.of(settings)
    except SpeechQCError as error:
        return CheckResult("access", "fail", str(error), "the message says what to mend")
    if policy.ring is not None:
        return CheckResult("access", "ok", "who has a key may come in")
    if is_loopback(settings.host):
        return CheckResult("access", "ok", "this machine alone, without keys")
    return CheckResult("access", "ok", "whoever reaches the address, without keys (SPEECHQC_ALLOW_ANONYMOUS)")


def check_descriptors(settings: Settings, limit: int | None = None) -> CheckResult:
    """Whether a process may open as many files as its places need.

    Args:
        settings: Places and connections.
        limit: Instead of this process's own.
    """
    wanted = settings.connections_limit + RESERVED_CONNECTIONS + SPARE_DESCRIPTORS
    needed = settings.max_streams + settings.max_uploads + SPARE_DESCRIPTORS
    limit = _descriptor_limit() if limit is None else limit
    if limit is None:
        return CheckResult("open files", "ok", "this system has no limit that could be read")
    text = f"a process may open {limit}, its places need {needed}"
    if limit < needed:
        return CheckResult("open files", "fail", text, f"ulimit -n {wanted}, or LimitNOFILE={wanted} in the unit")
    if limit < wanted:
        text = f"a process may open {limit}, its {settings.connections_limit} connections need {wanted}"
        advice = f"ulimit -n {wanted}, LimitNOFILE={wanted} in the unit, or lower SPEECHQC_MAX_CONNECTIONS"
        return CheckResult("open files", "warn", text, advice)
    return CheckResult("open files", "ok", text)


def needed_mib(settings: Settings) -> float:
    """Memory of all processes when all places are taken and uploads hold what they may."""
    each = BASE_MIB + STREAM_MIB * settings.max_streams + settings.max_held_bytes / 2**20
    return settings.workers * each


def check_memory(settings: Settings, limit_mib: float | None = None) -> CheckResult:
    """Whether all places can be taken at once.

    Args:
        settings: Places and processes.
        limit_mib: Instead of the machine's or the container's own.
    """
    needed = needed_mib(settings)
    limit = _memory_limit_mib() if limit_mib is None else limit_mib
    if limit is None:
        return CheckResult("memory", "ok", f"some {needed:.0f} MiB are needed; what there is cannot be read here")
    text = (
        f"{limit:.0f} MiB, some {needed:.0f} are needed when all places are taken and uploads are as large as they may"
    )
    if limit < needed:
        advice = "give it more, or lower SPEECHQC_MAX_HELD_BYTES, SPEECHQC_MAX_STREAMS or SPEECHQC_WORKERS"
        return CheckResult("memory", "warn", text, advice)
    return CheckResult("memory", "ok", text)


def check_cores(settings: Settings, cores: float | None = None) -> CheckResult:
    """Whether there are as many cores as processes.

    Args:
        settings: Processes.
        cores: Instead of what this process may use.
    """
    found = _cores() if cores is None else cores
    text = f"{found:g} for {settings.workers} process{'es' if settings.workers > 1 else ''}"
    if found < settings.workers:
        return CheckResult("cores", "warn", text, f"set SPEECHQC_WORKERS={max(1, int(found))}, or give it more")
    return CheckResult("cores", "ok", text)


def check_clock(year: int | None = None, synchronised: bool | None = None) -> CheckResult:
    """Whether times in logs, metrics and traces can be believed.

    Args:
        year: Instead of this year.
        synchronised: Instead of what the kernel says.
    """
    year = time.gmtime().tm_year if year is None else year
    if year < OLDEST_YEAR:
        return CheckResult("clock", "fail", f"it shows the year {year}", "set it, and run chrony or systemd-timesyncd")
    kept = _is_synchronised() if synchronised is None else synchronised
    if kept is False:
        text = "nobody keeps it: times in logs and metrics drift; lengths and lags here use another clock"
        return CheckResult("clock", "warn", text, "run chrony or systemd-timesyncd on the host")
    return CheckResult("clock", "ok", "the kernel says that it is kept" if kept else "plausible")


CHECKS: tuple[Callable[[Settings], CheckResult], ...] = (
    check_access,
    check_port,
    check_descriptors,
    check_memory,
    check_cores,
)


def all_findings(settings: Settings) -> Iterator[CheckResult]:
    """Every check, those that are quick first."""
    yield check_environment(dict(os.environ))
    yield check_libraries()
    for check in CHECKS:
        yield check(settings)
    yield check_clock()
    yield from check_model(settings)


def _serves(settings: Settings) -> str | None:
    """Version of the speech-qc that answers at the address already; None when nobody or something else does."""
    import httpx

    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # every address: this one as well
    try:
        answer = httpx.get(f"http://{host}:{settings.port}/health/live", timeout=3)
        if answer.status_code == httpx.codes.UNAUTHORIZED and answer.json()["error"]["code"] == Unauthorized.code:
            return "(which wants a key)"
        return str(answer.json()["version"]) if answer.json()["status"] == "live" else None
    except (httpx.HTTPError, ValueError, LookupError, TypeError):
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _descriptor_limit() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def _memory_limit_mib() -> float | None:
    """The container's limit, else the machine's memory."""
    for path in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        if text.isdigit() and int(text) < 1 << 60:
            return int(text) / 2**20
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (ValueError, OSError, AttributeError):
        return None


def _cores() -> float:
    """Cores that this process may use: its affinity, and the container's quota."""
    cores: float = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else min(cores, int(quota) / int(period))


def _is_synchronised() -> bool | None:
    """What the kernel says of its clock; None where it cannot be asked."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        said = ctypes.CDLL(None).adjtimex(ctypes.byref(ctypes.create_string_buffer(512)))  # modes 0: only read
    except (OSError, AttributeError):
        return None
    return None if said < 0 else said != TIME_ERROR
