"""Names the tones of an event from its runs and lines: telephone signals after ITU-T E.180, Q.23 and T.30, or hum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from speech_qc.scoring.details import ToneDetail
from speech_qc.wire.vocabulary import ToneKind

FRAME_S = 0.02
MASK = "*"

LOW_HZ, HIGH_HZ = (697.0, 770.0, 852.0, 941.0), (1209.0, 1336.0, 1477.0, 1633.0)
KEYS = ("123A", "456B", "789C", "*0#D")
KEY_TOLERANCE, KEY_TWIST_DB, KEY_FRAMES = 0.022, 9.0, 2
"""Q.24: receivers accept 1.8 % and up to 9 dB; the rest is the precision of a window of 40 ms. A key needs 40 ms."""
KEY_PURITY = 0.92
"""Share of the power in the two tones: vowels that resemble a key have less."""
HIDDEN_TOLERANCE = 0.03
"""Two tones this near to those of a key may be one that noise or a twist made unreadable."""

PAIRS: tuple[tuple[float, float, ToneKind], ...] = (
    (350.0, 440.0, "dial"),
    (350.0, 450.0, "dial"),
    (400.0, 450.0, "ringback"),
    (440.0, 480.0, "ringback"),
    (480.0, 620.0, "busy"),
)
PAIR_TOLERANCE_HZ = 9.0

PROGRESS_HZ = (395.0, 460.0)
"""Single call progress tones; their cadence tells them apart."""
BUSY_S, RINGBACK_S = 0.65, 1.6
"""Longest burst of a busy and of a ring-back tone; a dial tone lasts longer."""

CLOSE_HZ, CLOSE_DB = 62.5, 9.0
"""Two tones this near, and as different in level, are one peak to the short windows, which beats; the long ones tell
them apart. Ring-back tones are such pairs."""

SIT_HZ, SIT_TOLERANCE_HZ, SIT_S = (950.0, 1400.0, 1800.0), 50.0, (0.2, 0.45)
CNG_HZ, CNG_TOLERANCE_HZ, CNG_S = 1100.0, 38.0, (0.35, 0.75)
CED_HZ, CED_TOLERANCE_HZ, CED_S = 2100.0, 17.0, 1.0
WHISTLE_S = 1.0
"""A shorter single tone is a beep."""

COVERED_SHARE = 0.35
"""If pure tones cover less of the event, other sounds cover them, and the lines are more reliable."""

STABLE_HZ, STABLE_SHARE = 3.0, 0.6
"""A line is steady if so many windows contain it within this distance."""

CONSTANT_DB, CONSTANT_SHARE = 2.0, 0.6
"""The level of a constant line varies by less in this share of its windows; in the others, speech adds to it."""

MAINS_HZ, MAINS_TOLERANCE_HZ, MAINS_HIGHEST_HZ = (50.0, 60.0), 1.0, 460.0
MAINS_SHARE = 0.5
"""Least share of the lines that must be harmonics of the mains."""


class RunLike(Protocol):
    """Consecutive frames with the same pure tones; see `audio.tones.Run`."""

    first: int
    frames: int
    first_hz: float
    second_hz: float
    level_dbfs: float
    twist_db: float
    purity: float


class LinesLike(Protocol):
    """Lines of a long window; see `audio.tones.Lines`."""

    @property
    def first(self) -> int:
        """First frame."""

    @property
    def hz(self) -> tuple[float, ...]:
        """Frequencies, strongest first."""

    @property
    def level_db(self) -> tuple[float, ...]:
        """Their levels."""


class _NearLines(NamedTuple):
    """Some of the lines of a window."""

    first: int
    hz: tuple[float, ...]
    level_db: tuple[float, ...]


def masked(digits: str) -> str:
    """Return one star for each key."""
    return MASK * len(digits)


def name_tone(
    runs: Sequence[RunLike], windows: Sequence[LinesLike], *, duration_s: float, show_digits: bool
) -> ToneDetail:
    """Name the tones of one event.

    Args:
        runs: Runs within the event, in order.
        windows: Long windows within the event, in order.
        duration_s: Length of the event.
        show_digits: Whether keys are named; otherwise they are masked. The frequencies of keys are left out anyway,
            and without this also those of two tones that may be an unreadable key.
    """
    detail = _named(runs, windows, duration_s)
    if show_digits:
        return detail
    if detail.digits:
        return replace(detail, digits=masked(detail.digits))
    return replace(detail, frequencies_hz=()) if _may_be_key(detail.frequencies_hz) else detail


def _named(runs: Sequence[RunLike], windows: Sequence[LinesLike], duration_s: float) -> ToneDetail:
    """Name the tones of one event, keys included."""
    tonal = [run for run in runs if run.first_hz > 0.0]
    digits = keys(tonal)
    if digits:
        return ToneDetail("dtmf", (), digits)
    lines = steady_lines(windows)
    hum_hz = mains_hz(lines)
    if hum_hz is not None:
        return ToneDetail("hum", (hum_hz,))
    if _is_sit(tonal):
        return ToneDetail("sit", SIT_HZ)
    long = [run for run in tonal if run.frames >= 3]
    if lines and sum(run.frames for run in long) * FRAME_S < COVERED_SHARE * duration_s:
        return _from_lines(lines, windows, duration_s)
    if not long:
        return ToneDetail("other", ())
    strongest = max(long, key=lambda run: run.frames)
    bursts = [run.frames * FRAME_S for run in long if _near(run.first_hz, strongest.first_hz, 0.02)]
    found = tuple(hz for hz in (strongest.first_hz, strongest.second_hz) if hz)
    exact = tuple(min(lines, key=lambda line, hz=hz: abs(line - hz), default=hz) for hz in found)  # type: ignore[misc]
    found = tuple(line if abs(line - hz) < 8.0 else hz for line, hz in zip(exact, found, strict=True))
    found = _close_pair(strongest.first_hz, windows) or found
    kind = _kind(found, bursts)
    if kind == "beep" and duration_s >= WHISTLE_S and any(abs(line - found[0]) < 8.0 for line in lines):
        kind = "whistle"  # other sounds interrupt its runs
    return ToneDetail(kind, found)


def keys(runs: Sequence[RunLike]) -> str:
    """Return the telephone keys among the runs, in order."""
    found = []
    for run in runs:
        if (
            run.frames >= KEY_FRAMES
            and run.purity >= KEY_PURITY
            and run.second_hz
            and abs(run.twist_db) <= KEY_TWIST_DB
        ):
            row = [i for i, hz in enumerate(LOW_HZ) if _near(run.first_hz, hz, KEY_TOLERANCE)]
            column = [i for i, hz in enumerate(HIGH_HZ) if _near(run.second_hz, hz, KEY_TOLERANCE)]
            if row and column:
                found.append(KEYS[row[0]][column[0]])
    return "".join(found)


def _may_be_key(found: Sequence[float]) -> bool:
    """Whether these are the two tones of a telephone key, or nearly."""
    return (
        len(found) == 2
        and any(_near(found[0], hz, HIDDEN_TOLERANCE) for hz in LOW_HZ)
        and any(_near(found[1], hz, HIDDEN_TOLERANCE) for hz in HIGH_HZ)
    )


def steady_lines(windows: Sequence[LinesLike], share: float = STABLE_SHARE, *, constant: bool = False) -> list[float]:
    """Return the frequencies of lines that most windows contain, the most frequent first.

    Args:
        windows: Long windows.
        share: Share of the windows that must contain a line.
        constant: Whether the level must stay the same in most of them, as that of a note does not.
    """
    groups: list[list[tuple[float, float]]] = []
    for window in windows:
        for line in zip(window.hz, window.level_db, strict=True):
            group = next((group for group in groups if abs(group[0][0] - line[0]) <= STABLE_HZ), None)
            if group is None:
                groups.append([line])
            else:
                group.append(line)
    needed = max(1.0, share * len(windows))
    kept = [group for group in groups if len(group) >= needed and (not constant or _is_constant(group))]
    return [sum(hz for hz, _ in group) / len(group) for group in sorted(kept, key=len, reverse=True)]


def _close_pair(near_hz: float, windows: Sequence[LinesLike]) -> tuple[float, ...]:
    """Return the two tones that short windows took for one at this frequency, or for two; nothing if it is one.

    Where three lie so near, as in an Australian ring-back tone, these are the outer ones.
    """
    heard = [window for window in (_near_lines(near_hz, window) for window in windows) if window.hz]
    several = [window for window in heard if len(window.hz) > 1]
    if not several or len(several) < STABLE_SHARE * len(heard):
        return ()
    lines = steady_lines(several)
    return (min(lines), max(lines)) if len(lines) > 1 else ()


def _near_lines(near_hz: float, window: LinesLike) -> _NearLines:
    """Return the lines of a window that may be part of one peak of a short window."""
    near = [line for line in zip(window.hz, window.level_db, strict=True) if abs(line[0] - near_hz) <= CLOSE_HZ]
    strongest = max((level for _, level in near), default=0.0)
    near = [(hz, level) for hz, level in near if level >= strongest - CLOSE_DB]
    return _NearLines(window.first, tuple(hz for hz, _ in near), tuple(level for _, level in near))


def _is_constant(group: Sequence[tuple[float, float]]) -> bool:
    levels = sorted(level for _, level in group)
    middle = levels[len(levels) // 2]
    return sum(abs(level - middle) <= CONSTANT_DB for level in levels) >= CONSTANT_SHARE * len(levels)


def mains_hz(lines: Sequence[float]) -> float | None:
    """Return the fundamental of a mains hum, if the lines are its harmonics."""
    if not lines or lines[0] > MAINS_HIGHEST_HZ:
        return None
    for base in MAINS_HZ:
        harmonics = [(hz, round(hz / base)) for hz in lines if hz <= 1000.0]
        fits = [hz / n for hz, n in harmonics if n and abs(hz / n - base) <= MAINS_TOLERANCE_HZ]
        lowest = min((n for hz, n in harmonics if n and abs(hz / n - base) <= MAINS_TOLERANCE_HZ), default=99)
        if len(fits) >= MAINS_SHARE * len(lines) and (lowest <= 2 or (lowest <= 4 and len(fits) >= 2)):
            return sum(fits) / len(fits)
    return None


def is_call_progress(lines: Sequence[float]) -> bool:
    """Whether two lines are a telephone's dial, busy or ring-back tone."""
    return len(lines) == 2 and _kind((min(lines), max(lines)), (1.0,)) != "other"


def _kind(found: tuple[float, ...], bursts: Sequence[float]) -> ToneKind:
    longest = max(bursts)
    if len(found) == 2:
        for low, high, kind in PAIRS:
            if abs(found[0] - low) <= PAIR_TOLERANCE_HZ and abs(found[1] - high) <= PAIR_TOLERANCE_HZ:
                return kind
        return "other"
    hz = found[0]
    if abs(hz - CNG_HZ) <= CNG_TOLERANCE_HZ and CNG_S[0] <= longest <= CNG_S[1]:
        return "fax_cng"
    if abs(hz - CED_HZ) <= CED_TOLERANCE_HZ and longest >= CED_S:
        return "fax_ced"
    if PROGRESS_HZ[0] <= hz <= PROGRESS_HZ[1]:
        if longest > RINGBACK_S:
            return "dial"
        if longest > BUSY_S:
            return "ringback"
        if len(bursts) > 1:
            return "busy"
    return "whistle" if longest >= WHISTLE_S else "beep"


def _is_sit(runs: Sequence[RunLike]) -> bool:
    """Whether three runs in a row are the special information tone."""
    parts = [run for run in runs if SIT_S[0] <= run.frames * FRAME_S <= SIT_S[1] and not run.second_hz]
    return any(
        all(abs(run.first_hz - hz) <= SIT_TOLERANCE_HZ for run, hz in zip(parts[i : i + 3], SIT_HZ, strict=True))
        for i in range(len(parts) - 2)
    )


def _from_lines(lines: Sequence[float], windows: Sequence[LinesLike], duration_s: float) -> ToneDetail:
    """Name a tone under other sounds by its steady lines."""
    near = [hz for hz in lines[1:] if abs(hz - lines[0]) < 250.0]
    found: tuple[float, ...] = (lines[0],) if not near else (min(lines[0], near[0]), max(lines[0], near[0]))
    found = _close_pair(lines[0], windows) or found
    kind = _kind(found, (duration_s,))
    if kind == "dial" and not any(abs(line - found[0]) < 8.0 for line in steady_lines(windows, constant=True)):
        kind = "other"  # a note that a piece of music repeats
    return ToneDetail(kind, found)


def _near(a: float, b: float, share: float) -> bool:
    return abs(a - b) <= share * b
