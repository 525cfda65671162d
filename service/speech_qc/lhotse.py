"""Annotates Lhotse cuts: scores in `custom`, events as supervisions.

    import speech_qc.lhotse
    from lhotse import CutSet

    cuts = CutSet.from_file("cuts.jsonl.gz")
    good = speech_qc.lhotse.annotate(cuts).filter(lambda cut: cut.qc_status == "pass")

The extra `lhotse` installs Lhotse.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from speech_qc.columns import columns_of, error_columns
from speech_qc.embedded.detector import Channels, default_detector
from speech_qc.errors import ProtocolError, SpeechQCError, StartupError

if TYPE_CHECKING:
    from lhotse import CutSet, MonoCut, MultiCut, SupervisionSegment

    AnyCut = TypeVar("AnyCut", MonoCut, MultiCut)

__all__ = ["annotate", "annotate_cut"]


def annotate(
    cuts: CutSet, *, profile: str | None = None, channels: Channels = "split", supervisions: bool = True
) -> CutSet:
    """Inspect every cut of a set.

    Args:
        cuts: Cuts with audio; a lazy set stays lazy, and each cut is inspected when it is read.
        profile: Name of the verdict profile; None for the default one.
        channels: `split` to inspect each channel separately, `mix` for their mean.
        supervisions: Add events as supervisions. Leave them out if a training recipe expects a transcript in each.

    Returns:
        A new set; see `annotate_cut`.

    Raises:
        ProtocolError: There is no such profile.
        StartupError: The model cannot be loaded.
    """
    name, _ = default_detector().profile(profile)
    return cuts.map(partial(annotate_cut, profile=name, channels=channels, supervisions=supervisions))


def annotate_cut(
    cut: AnyCut, *, profile: str | None = None, channels: Channels = "split", supervisions: bool = True
) -> AnyCut:
    """Inspect one cut.

    Args:
        cut: A cut with audio; only its own span and channels are inspected.
        profile: Name of the verdict profile; None for the default one.
        channels: `split` or `mix`.
        supervisions: Add events as supervisions.

    Returns:
        A copy. Its `custom` has the columns `qc_status` to `qc_error` of `docs/datasets.md`, without `qc_events`. Each
        event is a supervision whose `custom` has `qc_label`, `qc_severity`, `qc_score_max` and `qc_score_mean`; it
        has no text. Those of an earlier annotation are replaced. If the audio cannot be read, `qc_error` says why.

    Raises:
        ProtocolError: The cut is mixed or padding, or there is no such profile.
        StartupError: The model cannot be loaded.
    """
    from lhotse import MonoCut, MultiCut
    from lhotse.utils import fastcopy

    if not isinstance(cut, MonoCut | MultiCut):
        raise ProtocolError(
            f"expected a MonoCut or MultiCut, got {type(cut).__name__}: annotate cuts before they are mixed or padded, "
            "or save their audio first (CutSet.save_audios)"
        )
    columns = _columns(cut, profile, channels)
    events = columns.pop("qc_events")
    kept = [one for one in cut.supervisions if "qc_label" not in (one.custom or {})]
    added = [_supervision(cut, number, event, channels) for number, event in enumerate(events)] if supervisions else []
    return fastcopy(cut, supervisions=kept + added, custom={**(cut.custom or {}), **columns})


def _columns(cut: Any, profile: str | None, channels: Channels) -> dict[str, Any]:
    detector = default_detector()
    if not cut.has_recording:
        return error_columns("expected a cut with a recording, got one with features only")
    try:
        samples = cut.load_audio()
    except Exception as error:  # Lhotse has a dozen backends, each with errors of its own
        return error_columns(f"Lhotse cannot load the audio: {error}")
    try:
        found = detector.inspect(
            np.asarray(samples).T,
            sample_rate=cut.sampling_rate,
            profile=profile,
            channels=channels,
            frames=False,
        )
    except (StartupError, ProtocolError):  # would be the same for every cut
        raise
    except SpeechQCError as error:
        return error_columns(str(error))
    return columns_of(found)


def _supervision(cut: Any, number: int, event: dict[str, Any], mode: Channels) -> SupervisionSegment:
    from lhotse import SupervisionSegment

    channel: int | Sequence[int] = cut.channel
    if mode == "split" and not isinstance(channel, int):
        channel = channel[event["channel"]]
    end_s = min(cut.duration if event["offset_s"] is None else event["offset_s"], cut.duration)
    return SupervisionSegment(
        id=f"{cut.id}-qc-{number}",
        recording_id=cut.recording_id,
        start=event["onset_s"],
        duration=round(max(end_s - event["onset_s"], 0.0), 6),
        channel=channel,
        custom={f"qc_{name}": event[name] for name in ("label", "severity", "score_max", "score_mean")},
    )
