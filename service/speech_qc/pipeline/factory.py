"""Build the parts from the settings: model, lanes, engine. Used by the server and by the command line."""

from __future__ import annotations

from speech_qc.audio import DecodeLimits
from speech_qc.audio.features import FrontEnd
from speech_qc.engine import Engine, EngineObserver, Lane, OnnxRunner, Runner, Stepper
from speech_qc.engine.runner import CPU_PROVIDER
from speech_qc.errors import SettingsError
from speech_qc.pipeline.chunk_reader import ChunkReader
from speech_qc.scoring import Profiles, load_profiles
from speech_qc.settings import Settings

LIVE_LANE = "live"
FLUSH_LANE = "flush"
UPLOAD_LANE = "upload"
TAIL_LANE = "upload_tail"

FLUSH_HOPS = 2
"""One output frame: the remainder of a live stream is flushed in single frames."""

TAIL_HOPS = 40
"""Chunk size for the remainder of an upload, which would waste most of a large chunk."""


def make_lanes(settings: Settings) -> tuple[Lane, ...]:
    """Return the lanes in order of priority: live audio before uploads."""
    live, uploaded = settings.max_streams, _uploaded_channels(settings)
    collect_s = settings.collect_ms / 1000
    return (
        Lane(LIVE_LANE, settings.live_chunk_hops, priority=0, most=live, collect_s=collect_s),
        Lane(FLUSH_LANE, FLUSH_HOPS, priority=1, most=live, collect_s=collect_s),
        Lane(TAIL_LANE, TAIL_HOPS, priority=2, most=uploaded),
        Lane(UPLOAD_LANE, settings.upload_chunk_hops, priority=3, most=uploaded),
    )


def _uploaded_channels(settings: Settings) -> int:
    """Maximum number of upload channels that are inspected at the same time."""
    return settings.max_uploads * settings.max_channels


def make_runner(settings: Settings) -> OnnxRunner:
    """Load the model file onto the configured device.

    Raises:
        ContractError: The file is missing, unreadable or not valid.
        StartupError: The requested device is not available.
    """
    return OnnxRunner(settings.model_path, settings.device, settings.intra_op_threads)


def make_engine(
    settings: Settings,
    runner: Runner,
    observer: EngineObserver | None = None,
    reader: ChunkReader | None = None,
) -> Engine:
    """Build an engine with room for all live streams and every channel of all uploads; it is not started yet.

    Its `read_out` returns what `Session.accept` takes.
    """
    capacity = settings.max_streams + _uploaded_channels(settings)
    steps = Stepper(
        runner,
        FrontEnd(runner.contract.features),
        reader or ChunkReader(runner.contract),
        capacity=capacity,
        max_batch=settings.max_batch,
    )
    on_cpu = runner.provider == CPU_PROVIDER
    return Engine(
        steps,
        lanes=make_lanes(settings),
        max_queue=capacity,
        max_step_failures=settings.max_step_failures,
        step_deadline_s=settings.step_deadline_s,
        in_loop=settings.steps_in == "loop" or (settings.steps_in == "auto" and on_cpu and settings.workers > 1),
        observer=observer,
    )


def decode_limits(settings: Settings) -> DecodeLimits:
    """Return the limits of one recording."""
    return DecodeLimits(
        settings.max_upload_bytes, settings.max_duration_s, settings.max_channels, settings.max_decoded_samples
    )


def make_profiles(settings: Settings) -> Profiles:
    """Load the verdict profiles and make sure that the default one is among them.

    Raises:
        SettingsError: The file cannot be used, or lacks the default profile.
    """
    profiles = load_profiles(settings.profiles_path)
    check_default_profile(settings, profiles)
    return profiles


def check_default_profile(settings: Settings, profiles: Profiles) -> None:
    """Check that the default profile exists.

    Raises:
        SettingsError: It does not.
    """
    if settings.default_profile not in profiles.names:
        raise SettingsError(
            f"SPEECHQC_DEFAULT_PROFILE={settings.default_profile!r} is not among the profiles: "
            f"{', '.join(profiles.names)}"
        )
