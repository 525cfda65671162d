"""The targets of all labels of one mixture, from the energies of its stems; `targets.py` defines each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from speech_qc.scoring.layout import frames_reaching
from training.corpora.taxonomy import ANY_DISTURBANCE, DISTURBANCE, SYNTHETIC_NOISE, Meaning
from training.event_rules import EVENT_RULES, FRAME_S
from training.mixing import targets
from training.mixing.channel import ChannelPlan
from training.mixing.plan import SourcePlan

Float64 = NDArray[np.float64]

SOURCE_LABELS = (
    "noise", "interference", "stationary_noise", "transient_noise", "interfering_speech", "music", "tone", DISTURBANCE,
)  # fmt: skip
BRIDGED_FRAMES = {label: frames_reaching(rule.merge_gap_s, FRAME_S) - 1 for label, rule in EVENT_RULES.items()}
"""Longest gap that events of a label bridge."""
BRIDGED_FRAMES[DISTURBANCE] = BRIDGED_FRAMES["noise"]
FLOOR = SourcePlan("synth", SYNTHETIC_NOISE, 0.0, (0, 0), 0, 0)  # room tone, where it counts as a source


def label_targets(
    stems: Mapping[str, Float64],
    sources: list[tuple[SourcePlan, Float64]],
    has_speech: bool,
    c50_db: float | None,
    clipped_share: Float64,
    lost_share: Float64,
    audibly_lost: NDArray[np.bool_] | None = None,
    talking: Sequence[Float64 | None] = (),
) -> dict[str, targets.FrameTarget]:
    """Compute the targets of all labels and frames from the stems.

    `talking` has the VAD teacher's probabilities for the speech and for each source, or None.
    """
    frames = stems["dry"].size
    active = targets.speech_activity(stems["dry"]) if has_speech else np.zeros(frames, dtype=bool)
    level = targets.active_level_db(stems["speech"], active)
    said, *others = talking or [None] * (1 + len(sources))
    result = {"speech": _speech_target(active, level, sources, said if has_speech else None, others)}
    # Without speech, a noise floor that an overload has made loud counts as noise.
    sounding = sources if has_speech else [*sources, (FLOOR, stems["floor"])]
    disturbing = [(replace(source, meaning=ANY_DISTURBANCE), energy) for source, energy in sounding]
    for label in SOURCE_LABELS:
        of_label = disturbing if label == DISTURBANCE else sounding
        result[label] = _source_target(label, of_label, level, frames, active)
    result["clipping"] = targets.share_target(clipped_share, targets.CLIPPED_SHARE)
    other = stems["floor"] + sum((energy for _, energy in sources), np.zeros(frames))
    result["snr_db"] = targets.FrameTarget(targets.snr_db(stems["speech"], other), active)
    result["reverberation"] = targets.reverberation(active, c50_db)
    quiet = -np.inf if level is None else level - targets.LOSS_AUDIBLE_BELOW_SPEECH_DB
    sounded = targets.to_db(stems["speech"] + other) > max(targets.LOSS_AUDIBLE_DBFS, quiet)
    lost = lost_share > 0.0
    audible = sounded if audibly_lost is None else sounded & audibly_lost
    dropout = targets.ternary((lost_share >= targets.LOST_SHARE) & audible, ~lost)
    masked = {k: targets.FrameTarget(t.value, t.mask & ~lost) for k, t in result.items()}
    return {**masked, "dropout": dropout}


def _speech_target(
    active: NDArray[np.bool_],
    level_db: float | None,
    sources: list[tuple[SourcePlan, Float64]],
    said: Float64 | None,
    others: Sequence[Float64 | None],
) -> targets.FrameTarget:
    """Return the speech target: the main talker or an audible competing one; masked where voices blur.

    The VAD teacher decides where somebody speaks, since energy takes breath and lip smacks for speech; frames that it
    is unsure of are masked. Without a teacher, energy decides.
    """
    yes, open_ = (active.copy(), np.zeros(active.size, dtype=bool)) if said is None else targets.taught_speech(said)
    for (source, energy), heard in zip(sources, others, strict=True):
        audible, inaudible = targets.presence(energy, level_db)
        if source.kind == "talker":
            talking = targets.speech_activity(energy)
            if heard is not None:
                talking, unsure = targets.taught_speech(heard)
                open_ |= unsure & ~inaudible
            yes |= talking & audible
            open_ |= talking & ~audible & ~inaudible
        elif source.kind == "babble" or _blurs_speech(source.meaning):
            open_ |= ~inaudible
    return targets.ternary(yes, ~yes & ~open_)


def _blurs_speech(meaning: Meaning) -> bool:
    """Whether a sound is ambience that may contain voices; coughs, cries and laughter are vocal but not speech."""
    return "interfering_speech" in meaning.maybe and "transient_noise" not in meaning.yes


def _source_target(
    label: str,
    sources: list[tuple[SourcePlan, Float64]],
    level_db: float | None,
    frames: int,
    active: NDArray[np.bool_],
) -> targets.FrameTarget:
    """Return the target of one label over all sources.

    Energies of sources with the label add up; audible sources that may have the label mask it. A second talker counts
    once the first one is known, because before that a causal listener cannot tell which is the main one. A second
    talker that is nearly as loud counts only where both speak simultaneously. Gaps that events bridge are masked, and
    so is the beginning of a second talker.
    """
    total, maybe, voices = np.zeros(frames), np.zeros(frames), np.zeros(frames)
    known = targets.known_talker(active)
    for source, energy in sources:
        if label in source.meaning.yes and source.kind == "talker":
            ordered = source.level_db <= -targets.ORDERED_TALKERS_DB
            sure = known if ordered else known & active
            total += np.where(sure, energy, 0.0)
            voices += np.where(sure, energy, 0.0)
            maybe += np.where(sure, 0.0, energy)
        elif label in source.meaning.yes:
            total += energy
        elif label in source.meaning.maybe:
            maybe += energy
    audible, inaudible = targets.presence(total, level_db)
    _, maybe_inaudible = targets.presence(maybe, level_db)
    open_ = targets.undecided_gaps(audible, BRIDGED_FRAMES[label])
    heard = targets.close_gaps(targets.presence(voices, level_db)[0], BRIDGED_FRAMES[label])
    others, _ = targets.presence(total - voices, level_db)
    open_ |= targets.beginnings(heard, targets.NEW_VOICE_FRAMES) & ~others
    return targets.ternary(audible & ~open_, inaudible & maybe_inaudible & ~open_)


def behind_gate(
    judged: Mapping[str, targets.FrameTarget], shut: NDArray[np.bool_], channel: ChannelPlan
) -> dict[str, targets.FrameTarget]:
    """Mask the disturbances where the sender's gate is shut: always in comfort noise, and in short silence."""
    # At the edges of a clip, too, where the rest of the silence is not seen.
    inside = np.concatenate([[True], ~shut, [True]])
    brief = targets.undecided_gaps(inside, targets.SHUT_GAP_FRAMES)[1:-1]
    unsure = shut if channel.pauses == "comfort" else brief
    return {
        label: targets.FrameTarget(target.value, target.mask & ~unsure) if label in SOURCE_LABELS else target
        for label, target in judged.items()
    }
