"""Inspects recordings in this process, with one model that is loaded at first use."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace
from uuid import uuid4

import numpy as np

from speech_qc.audio.raw_format import parse_channels, raw_format
from speech_qc.engine import Runner
from speech_qc.errors import ProtocolError
from speech_qc.pipeline.capture import inspect_capture, not_a_capture, rtp_options
from speech_qc.pipeline.direct import DirectModel, inspect_blocks
from speech_qc.pipeline.documents import (
    choose_labels,
    inspection_document,
    model_info,
)
from speech_qc.pipeline.factory import check_default_profile, decode_limits, make_runner
from speech_qc.pipeline.recording import InspectOptions, recorded_legs
from speech_qc.pipeline.sources import Source, WholeNumber, opened, opened_capture, whole_number
from speech_qc.results import Inspection
from speech_qc.rtp.stream import LegItem
from speech_qc.scoring import Profile, load_profiles
from speech_qc.settings import Settings, load_settings
from speech_qc.wire.vocabulary import RawEncoding

Labels = str | Iterable[str] | None
"""Labels as a list, or comma-separated; None for all."""

Legs = str | Iterable[str] | None
"""Names of legs as a list, or comma-separated; None if the channels are not the legs of a call."""

Channels = int | str
"""`split`, `mix`, or the channels of audio without a header, as in `2` or `2,mix`."""

MAX_STREAMS = 256
"""RTP streams of one capture; a server accepts as many as channels."""

UNLIMITED_BYTES = 1 << 62
"""The limit on uploads protects a server's memory; a program may read files of any size."""


class Detector:
    """A loaded model and its settings; can be used from any thread.

    Args:
        settings: Profiles, limits, and the size of live chunks.
        runner: The model; None to load the file of the settings.

    Raises:
        StartupError: Profiles or model cannot be used.
    """

    def __init__(self, settings: Settings, runner: Runner | None = None) -> None:
        self.settings = settings
        self.model = DirectModel(runner or make_runner(settings))
        self.profiles = load_profiles(settings.profiles_path)
        self._limits = decode_limits(settings.model_copy(update={"max_upload_bytes": UNLIMITED_BYTES}))

    def labels(self, wanted: Labels) -> tuple[str, ...]:
        """Choose labels, in the model's order; all of them for None.

        Raises:
            ProtocolError: The model lacks one of the labels, or the list is empty.
        """
        if wanted is None or isinstance(wanted, str):
            joined = wanted
        else:
            names = list(wanted) if isinstance(wanted, Iterable) else []
            if not names or not all(isinstance(name, str) and name.strip() for name in names):
                raise ProtocolError(f"labels: expected names of labels, got {wanted!r}: leave it out to get all labels")
            joined = ",".join(names)
        return choose_labels(self.model.contract, joined)

    def profile(self, name: str | None) -> tuple[str, Profile]:
        """Find a verdict profile; the default one for None.

        Returns:
            Its name, and its limits.

        Raises:
            ProtocolError: There is no such profile.
        """
        if name is not None and not isinstance(name, str):
            raise ProtocolError(f"profile: expected the name of a profile, got {name!r}")
        chosen = name or self.settings.default_profile
        return chosen, self.profiles.get(chosen)

    def inspect(
        self,
        source: Source,
        *,
        sample_rate: WholeNumber | None = None,
        encoding: RawEncoding | None = None,
        channels: Channels = "split",
        profile: str | None = None,
        labels: Labels = None,
        frames: bool = True,
        explain: bool = False,
        legs: Legs = None,
        show_digits: bool = False,
        payload_types: str | None = None,
        on_step: Callable[[], object] = lambda: None,
        on_item: Callable[[LegItem], object] | None = None,
    ) -> Inspection:
        """Inspect one recording; see `inspect`.

        Args:
            source: The recording.
            sample_rate: Sample rate of an array or of audio without a header, Hz; None for recordings.
            encoding: Encoding of audio without a header; None for recordings and arrays.
            channels: `split` to inspect each channel separately, `mix` for their mean; for audio without a header also
                their number, as in `2` or `"2,mix"`.
            profile: Name of the verdict profile; None for the default one.
            labels: Labels to return; None for all.
            frames: Return the scores of every frame.
            explain: Find the evidence for each event.
            legs: Names of the two channels as the legs of a call.
            show_digits: Name the telephone keys in tones.
            payload_types: What the dynamic payload types of a packet capture mean, such as `96=opus/48000/2`.
            on_step: Called before each step of the model, every few seconds of audio; if it raises, the work ends.
            on_item: Called with the decoded sound and the gaps of a packet capture.
        """
        chosen = self.labels(labels)
        profile, limits = self.profile(profile)
        count, mode = parse_channels(str(channels))
        raw = None
        if encoding is not None or count is not None:
            if isinstance(source, np.ndarray):
                raise ProtocolError(
                    "encoding and a number of channels are for bytes and files: leave them out for arrays"
                )
            rate_hz = None if sample_rate is None else whole_number("sample_rate", sample_rate)
            raw = raw_format(encoding, rate_hz, count)
        options = InspectOptions(
            limits,
            mode,
            frames,
            self.settings.max_events,
            explain,
            show_digits=show_digits or self.settings.show_digits,
            legs=recorded_legs(legs if legs is None or isinstance(legs, str) else ",".join(legs), mode),
        )
        with opened_capture(source) if raw is None else nullcontext() as capture:
            if capture is not None:
                if sample_rate is not None:
                    raise ProtocolError("sample_rate: expected none for a packet capture: leave it out")
                rtp = rtp_options(self._limits, payload_types, mix=mode == "mix", explain=explain)
                rtp = replace(rtp, max_streams=max(MAX_STREAMS, rtp.max_streams))
                found = inspect_capture(self.model, capture, rtp, options, on_step, on_item)
            elif payload_types is not None:
                raise not_a_capture()
            else:
                with opened(source, sample_rate, self._limits, raw) as recording:
                    found = inspect_blocks(self.model, recording, options, on_step)
        identity = model_info(self.model.runner)
        contract = self.model.contract
        return Inspection(
            inspection_document(
                found, contract, identity, request_id=uuid4().hex, profile=profile, labels=chosen, frames=frames
            )
        )


_loading = threading.Lock()
_detector: Detector | None = None
_inherited: list[Detector] = []
"""Models of parent processes, never freed: ONNX Runtime would wait for threads that do not exist after the fork."""


def default_detector() -> Detector:
    """Return the model of this process; the first call loads it, with the settings of the `SPEECHQC_*` environment.

    Raises:
        StartupError: A setting is wrong, or the model cannot be loaded; the next call tries again.
    """
    global _detector
    with _loading:  # otherwise two simultaneous first calls would load it twice
        if _detector is None:
            loaded = Detector(load_settings())
            check_default_profile(loaded.settings, loaded.profiles)
            _detector = loaded
        return _detector


def _start_anew() -> None:
    """Make a forked process load its own model: a fork copies neither threads nor the context of a GPU."""
    global _loading, _detector
    _loading = threading.Lock()  # the inherited one may be held by a thread that was not copied
    if _detector is not None:
        _inherited.append(_detector)
        _detector = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


def inspect(
    source: Source,
    sample_rate: WholeNumber | None = None,
    *,
    encoding: RawEncoding | None = None,
    channels: Channels = "split",
    profile: str | None = None,
    labels: Labels = None,
    frames: bool = True,
    explain: bool = False,
    legs: Legs = None,
    show_digits: bool = False,
    payload_types: str | None = None,
) -> Inspection:
    """Inspect one recording: scores for every 20 ms, events, levels, a summary and a verdict.

    Several threads may call it at the same time.

    Args:
        source: A path; the bytes of a recording; an open binary file, which is read from its position to its end; or
            samples as float32 or float64 in [-1, 1] or as int16, of shape (n,) or (n, channels).
        sample_rate: Sample rate of an array or of audio without a header, 8000 to 192000 Hz; recordings declare theirs.
        encoding: Encoding of audio without a header: `linear16`, `mulaw`, `alaw`, `float32`, `gsm`, …; None for
            recordings and arrays.
        channels: `split` to inspect each channel separately, `mix` for their mean. For audio without a header also the
            number of interleaved channels, as in `2` or `"2,mix"`.
        profile: Name of the verdict profile; None for the default one.
        labels: Labels to return, as a list or comma-separated; None for all.
        frames: Return the scores of every frame. Without them and without `explain`, memory does not grow with length.
        explain: Find the evidence for each event: its frequency band, its level above the noise floor, its SNR.
        legs: Names of the two channels, as a list or comma-separated (`agent,customer`): inspect them as the legs of a
            call; the result has `interaction`, what happens between them.
        show_digits: Name the telephone keys in tones, which may be card numbers; otherwise they are masked (`****`).
        payload_types: For a packet capture (pcap, pcapng), of which each RTP stream is a channel: what dynamic payload
            types mean, such as `96=opus/48000/2`, unless SIP messages in the capture say it.

    Returns:
        The findings; `to_dict()` gives the document of `POST /v1/inspect`.

    Raises:
        InvalidAudio: The file cannot be opened, is damaged or contains no samples; or the array has the wrong type,
            shape or scale.
        UnsupportedFormat: The bytes are not in a readable format.
        PayloadTooLarge: More seconds or channels than `SPEECHQC_MAX_DURATION_S` and `SPEECHQC_MAX_CHANNELS` allow.
        ProtocolError: An unknown option, profile or label; an array without a sample rate; or a source of another type.
        InferenceError: The model failed.
        StartupError: A setting is wrong, or the model cannot be loaded.
        OSError: An open file cannot be read.

    Example:
        >>> inspect("call.wav").verdict.status
        'pass'
        >>> inspect(samples, 16_000).channels[0].frames["noise"].shape  # one score per 20 ms
        (500,)
    """
    return default_detector().inspect(
        source,
        sample_rate=sample_rate,
        encoding=encoding,
        channels=channels,
        profile=profile,
        labels=labels,
        frames=frames,
        explain=explain,
        legs=legs,
        show_digits=show_digits,
        payload_types=payload_types,
    )
