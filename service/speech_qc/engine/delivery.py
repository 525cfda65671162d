"""Delivers the results of a successful step: to groups in one call each, to single receivers one by one."""

from __future__ import annotations

import logging
from typing import cast

from speech_qc.engine.device import Step
from speech_qc.engine.entry import Entry, Group, GroupResult, Member, Reply, StepResult, fail_entries
from speech_qc.engine.protocols import StepScores
from speech_qc.errors import InferenceError, InvalidAudio

logger = logging.getLogger(__name__)


def deliver(step: Step, result: StepScores) -> list[float]:
    """Deliver the results of a step; fail the entries whose row is not finite.

    Returns:
        Of each entry: seconds from submit until the step began.
    """
    entries = step.entries
    queue_s = [step.started_s - entry.submitted_s for entry in entries]
    if not result.usable.all():
        _fail_broken(entries, result)
    groups: dict[Group, list[int]] = {}
    readings: list[object] | None = None
    for place, entry in enumerate(entries):
        if entry.done:
            continue
        entry.answered = True
        if entry.samples is None:
            groups.setdefault(cast(Member, entry.reply).group, []).append(place)
            continue
        readings = readings or list(result.readings)
        cast(Reply, entry.reply).set_result(
            StepResult(
                result.scores[place], readings[place], queue_s[place], step.step_s, result.features_s, len(entries)
            )
        )
    for group, places in groups.items():
        waited_s = [queue_s[place] for place in places]
        members = [entries[place].reply for place in places]
        group.deliver(members, GroupResult(places, result.readings, waited_s, step.step_s, result.features_s))
    return queue_s


def _fail_broken(entries: list[Entry], result: StepScores) -> None:
    """Fail the entries whose row of the step is not finite."""
    rows = list(zip(entries, result.usable, result.input_finite, strict=True))
    fail_entries(
        [entry for entry, _, input_finite in rows if not input_finite],
        InvalidAudio("expected finite samples in [-1, 1], got NaN or infinity: check the source of the audio"),
    )
    broken = [entry for entry, good, input_finite in rows if input_finite and not good]
    if broken:
        logger.error("scores of %d of %d chunks in a step are not finite", len(broken), len(entries))
        fail_entries(broken, InferenceError("expected finite scores for this chunk, got NaN or infinity: retry"))
