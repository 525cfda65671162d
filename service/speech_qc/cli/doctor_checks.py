"""The checks of `speech-qc doctor`: each returns a state and, if something is wrong, advice.

A check never raises because of a problem that it finds. It changes nothing: the port is bound briefly and released.
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
"""Open files of the process itself: libraries, the log, the event loop, scrapes."""

BASE_MIB, STREAM_MIB = 350, 0.3
"""Memory of a process with a warm model, and of a live channel; rounded up from benchmarks/RESULTS.md."""

OLDEST_YEAR = 2025
"""A clock that shows an earlier year was never set."""

TIME_ERROR = 5
"""Return value of adjtimex(2) if the clock is not synchronised."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Result of a check.

    Attributes:
        name: Name of the check.
        state: With `warn`, the service still runs.
        text: Description of the state.
        advice: What to do; empty if there is nothing to do.
    """

    name: str
    state: State
    text: str
    advice: str = ""


def check_environment(environment: dict[str, str]) -> CheckResult:
    """Check that every SPEECHQC_* variable is a setting."""
    unknown = unknown_variables(environment)
    if unknown:
        text = f"{', '.join(unknown)}: no such setting"
        return CheckResult("variables", "warn", text, "correct or remove them; `speech-qc settings` lists all names")
    return CheckResult("variables", "ok", f"every {PREFIX}* variable is a setting")


def check_libraries() -> CheckResult:
    """Check that the libraries are installed, do not conflict, and support the audio formats."""
    text = f"Python {platform.python_version()}"
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version(name)]
    if len(both) == 2:
        advice = "pip uninstall onnxruntime onnxruntime-gpu, then reinstall speech-qc"
        return CheckResult("libraries", "fail", "onnxruntime and onnxruntime-gpu conflict with each other", advice)
    if not both:
        return CheckResult("libraries", "fail", "ONNX Runtime is missing", "reinstall speech-qc")
    text += f", {both[0]} {_version(both[0])}"
    try:
        import soundfile
    except (ImportError, OSError) as error:
        return CheckResult("libraries", "fail", f"libsndfile cannot be loaded: {error}", "install libsndfile1")
    text += f", libsndfile {soundfile.__libsndfile_version__}"
    missing = [name for name in ("FLAC", "OGG", "MP3") if name not in soundfile.available_formats()]
    if missing:
        advice = "install libsndfile 1.1 or later to read them"
        return CheckResult("libraries", "warn", f"{text}; cannot read {', '.join(missing)}", advice)
    if not _version("av"):
        advice = "pip install 'speech-qc[media]' to read M4A, WebM and more"
        return CheckResult("libraries", "warn", f"{text}; no PyAV", advice)
    text += f", PyAV {_version('av')}"
    if not _version("uvloop") and sys.platform != "win32":
        return CheckResult("libraries", "warn", f"{text}; no uvloop", "pip install uvloop: more streams per server")
    return CheckResult("libraries", "ok", text)


def check_model(settings: Settings) -> Iterator[CheckResult]:
    """Check that the model loads, and report its provider and the duration of a step."""
    import numpy as np

    from speech_qc.pipeline.factory import make_profiles, make_runner

    try:
        runner = make_runner(settings)
    except StartupError as error:
        name = "provider" if error.code == StartupError.code else "model"
        yield CheckResult(name, "fail", str(error), "see the message for what to fix")
        return
    contract = runner.contract
    yield CheckResult("model", "ok", f"{contract.name} {contract.version} ({runner.sha256[:12]}) is compatible")
    hops = settings.live_chunk_hops
    features = np.zeros((1, hops, contract.features.columns), np.float32)
    state = np.zeros((1, contract.state_size), np.float32)
    try:
        runner.run(features, state)  # the first one is slower
        started_s = time.perf_counter()
        runner.run(features, state)
        step_ms = 1000 * (time.perf_counter() - started_s)
    except SpeechQCError as error:
        yield CheckResult("provider", "fail", f"{runner.provider}: {error}", "see the message for what to fix")
        return
    text = f"{runner.provider}, a step of one stream takes {step_ms:.1f} ms"
    if runner.provider_fallback and Path("/dev/nvidia0").exists():
        advice = "install speech-qc[cuda] and a compatible driver, or set SPEECHQC_DEVICE=cpu if that is intended"
        yield CheckResult("provider", "warn", f"{text}, though this machine has a GPU", advice)
    elif runner.provider_fallback:
        advice = "set SPEECHQC_DEVICE=cpu, so that the alert on a lost GPU does not fire"
        yield CheckResult("provider", "ok", f"{text}; there is no GPU", advice)
    else:
        yield CheckResult("provider", "ok", text)
    try:
        profiles = make_profiles(settings)
    except SpeechQCError as error:
        yield CheckResult("profiles", "fail", str(error), "see the message for what to fix")
    else:
        yield CheckResult("profiles", "ok", ", ".join(profiles.names))


def check_port(settings: Settings) -> CheckResult:
    """Check that the server can listen on its address."""
    from speech_qc.workers.acceptor import bind_all

    where = f"{settings.host}, port {settings.port}"
    try:
        for one in bind_all(settings.host, settings.port):
            one.close()
    except SpeechQCError as error:
        if (version := _serves(settings)) is not None:
            return CheckResult("port", "ok", f"speech-qc {version} listens on {where}")
        advice = "stop the process that uses it, or set SPEECHQC_PORT or SPEECHQC_HOST"
        return CheckResult("port", "fail", str(error), advice)
    return CheckResult("port", "ok", f"{where} is free")


def check_access(settings: Settings) -> CheckResult:
    """Check that access is configured and that the keys can be read."""
    from speech_qc.security.access_policy import AccessPolicy
    from speech_qc.security.bind_check import check_exposure, is_loopback

    try:
        check_exposure(settings)
        policy = AccessPolicy.of(settings)
    except SpeechQCError as error:
        return CheckResult("access", "fail", str(error), "see the message for what to fix")
    if policy.ring is not None:
        return CheckResult("access", "ok", "clients with a key")
    if is_loopback(settings.host):
        return CheckResult("access", "ok", "only this machine, without keys")
    return CheckResult("access", "ok", "any client that reaches the address, without keys (SPEECHQC_ALLOW_ANONYMOUS)")


def check_descriptors(settings: Settings, limit: int | None = None) -> CheckResult:
    """Check that a process may open as many files as its places need.

    Args:
        settings: Places and connections.
        limit: Limit to assume; None for that of this process.
    """
    wanted = settings.connections_limit + RESERVED_CONNECTIONS + SPARE_DESCRIPTORS
    needed = settings.max_streams + settings.max_uploads + SPARE_DESCRIPTORS
    limit = _descriptor_limit() if limit is None else limit
    if limit is None:
        return CheckResult("open files", "ok", "this system has no limit, or it cannot be read")
    text = f"a process may open {limit}, its places need {needed}"
    if limit < needed:
        return CheckResult("open files", "fail", text, f"ulimit -n {wanted}, or LimitNOFILE={wanted} in the unit")
    if limit < wanted:
        text = f"a process may open {limit}, its {settings.connections_limit} connections need {wanted}"
        advice = f"ulimit -n {wanted}, LimitNOFILE={wanted} in the unit, or lower SPEECHQC_MAX_CONNECTIONS"
        return CheckResult("open files", "warn", text, advice)
    return CheckResult("open files", "ok", text)


def needed_mib(settings: Settings) -> float:
    """Return the memory of all processes with all places taken and the maximum held for uploads, MiB."""
    each = BASE_MIB + STREAM_MIB * settings.max_streams + settings.max_held_bytes / 2**20
    return settings.workers * each


def check_memory(settings: Settings, limit_mib: float | None = None) -> CheckResult:
    """Check that there is enough memory if all places are taken.

    Args:
        settings: Places and processes.
        limit_mib: Memory to assume; None for that of the container or machine.
    """
    needed = needed_mib(settings)
    limit = _memory_limit_mib() if limit_mib is None else limit_mib
    if limit is None:
        return CheckResult("memory", "ok", f"about {needed:.0f} MiB needed; the available memory cannot be read here")
    text = f"{limit:.0f} MiB, about {needed:.0f} needed if all places are taken and uploads fill their memory limit"
    if limit < needed:
        advice = "add memory, or lower SPEECHQC_MAX_HELD_BYTES, SPEECHQC_MAX_STREAMS or SPEECHQC_WORKERS"
        return CheckResult("memory", "warn", text, advice)
    return CheckResult("memory", "ok", text)


def check_cores(settings: Settings, cores: float | None = None) -> CheckResult:
    """Check that there are as many cores as processes.

    Args:
        settings: Processes.
        cores: Cores to assume; None for those that this process may use.
    """
    found = _cores() if cores is None else cores
    text = f"{found:g} for {settings.workers} process{'es' if settings.workers > 1 else ''}"
    if found < settings.workers:
        return CheckResult("cores", "warn", text, f"set SPEECHQC_WORKERS={max(1, int(found))}, or add cores")
    return CheckResult("cores", "ok", text)


def check_clock(year: int | None = None, synchronised: bool | None = None) -> CheckResult:
    """Check that times in logs, metrics and traces are reliable.

    Args:
        year: Year to assume; None for the current one.
        synchronised: State to assume; None for that reported by the kernel.
    """
    year = time.gmtime().tm_year if year is None else year
    if year < OLDEST_YEAR:
        return CheckResult("clock", "fail", f"it shows the year {year}", "set it, and run chrony or systemd-timesyncd")
    kept = _is_synchronised() if synchronised is None else synchronised
    if kept is False:
        text = "not synchronised: times in logs and metrics drift; durations and lags use the monotonic clock"
        return CheckResult("clock", "warn", text, "run chrony or systemd-timesyncd on the host")
    return CheckResult("clock", "ok", "synchronised, according to the kernel" if kept else "plausible")


CHECKS: tuple[Callable[[Settings], CheckResult], ...] = (
    check_access,
    check_port,
    check_descriptors,
    check_memory,
    check_cores,
)


def all_results(settings: Settings) -> Iterator[CheckResult]:
    """Run every check, the quick ones first."""
    from speech_qc.cli.doctor_results import check_results

    yield check_environment(dict(os.environ))
    yield check_libraries()
    for check in CHECKS:
        yield check(settings)
    yield check_clock()
    yield check_results(settings)
    yield from check_model(settings)


def _serves(settings: Settings) -> str | None:
    """Return the version of speech-qc that already runs at the address; None if there is none or another service."""
    import httpx

    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(
        settings.host, settings.host
    )  # a wildcard address includes loopback
    try:
        answer = httpx.get(f"http://{host}:{settings.port}/health/live", timeout=3)
        if answer.status_code == httpx.codes.UNAUTHORIZED and answer.json()["error"]["code"] == Unauthorized.code:
            return "(which needs a key)"
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
    """Return the container's memory limit, otherwise the machine's memory; None if unknown."""
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
    """Return the cores that this process may use: its CPU affinity, limited by the container's quota."""
    cores: float = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else min(cores, int(quota) / int(period))


def _is_synchronised() -> bool | None:
    """Whether the kernel reports a synchronised clock; None if unknown."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        status = ctypes.CDLL(None).adjtimex(ctypes.byref(ctypes.create_string_buffer(512)))  # modes 0: read only
    except (OSError, AttributeError):
        return None
    return None if status < 0 else status != TIME_ERROR
