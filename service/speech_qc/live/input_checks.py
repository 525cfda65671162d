"""Check a live stream for problems that its sender should fix: wrong pace, silence, clipping, wrong declared format.

Warnings do not affect the scores. A code is sent when its problem begins. It is sent again only after the problem has
cleared and `REPEAT_S` have passed, so that a bad line does not flood the socket.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio.levels import Levels
from speech_qc.wire.vocabulary import WarningCode

Float32 = NDArray[np.float32]

PACE_WINDOW_S = 10.0
"""Window for comparing arrivals with the clock; long enough that jitter and one-second messages do not matter."""

PACE_TOLERANCE = 0.1
"""Largest relative deviation from real time; clocks differ by 0.01 %, wrong rates by half or more."""

SLOW_WINDOWS = 2
"""Consecutive slow windows that cause a warning; a single network stall does not."""

LEAD_S = 3.0
"""Audio further ahead of the clock than this is not jitter: the sender is faster than real time."""

SILENCE_DBFS = -70.0
"""Below this level no microphone is open."""

SILENCE_S = 10.0
"""Longer than people pause on a working line."""

LEVEL_CHECK_S = 10.0
"""Seconds of audio between two checks of the level measures."""

CLIPPED_RATIO = 0.001
"""Share of clipped samples since the last check that causes a warning: audible in speech."""

NARROW_SHARE = 0.25
"""If all signal is below this share of the band, the declared rate is too high for the content."""

NARROW_CHECKS = 3
"""Consecutive checks that must find it: a hum before anyone speaks is narrow, too."""

JUMP = 0.5
JUMP_RATIO = 0.06
"""A jump is a step between neighbouring samples that is larger than half of full scale. In clipped speech, less than
1 % of the steps are jumps; in bytes decoded with the wrong encoding, 9 % or more. The exception is µ-law decoded as
A-law, which still resembles speech."""

JUMPS_S = 3.0
"""Seconds that the jumps must last; those of a crackling plug do not."""

LOUD_SQUARE = 0.01
"""Mean square (-20 dBFS) below which that many jumps are impossible, so they are not counted."""

REPEAT_S = 30.0
"""Minimum seconds between two warnings with the same code."""


@dataclass(frozen=True, slots=True)
class InputWarning:
    """One warning; `channel` is None if it concerns the whole stream."""

    code: WarningCode
    message: str
    channel: int | None = None


@dataclass(slots=True)
class _Channel:
    """Sums over the current second of audio, and the results of earlier seconds."""

    samples: int = 0
    squares: float = 0.0
    jumps: int = 0
    quiet_s: float = 0.0
    jumping_s: float = 0.0
    since_look_s: float = 0.0
    clipped: float = 0.0  # samples, at the last check
    looked_at: int = 0  # samples, at the last check
    narrow_checks: int = 0


class InputChecks:
    """Checks one stream; owned by one task.

    Args:
        rate_hz: Declared rate.
        channels: Number of channels.
        encoding: Declared encoding.
    """

    def __init__(self, rate_hz: int, channels: int, encoding: str) -> None:
        self._rate_hz = rate_hz
        self._encoding = encoding
        self._channels = [_Channel() for _ in range(channels)]
        self._window_s: float | None = None  # when the pace window began
        self._window_audio_s = 0.0
        self._slow_windows = 0
        self._debt_s = 0.0  # audio missing in the last window; catching up is not "too fast"
        self._paused = False  # KeepAlive arrived: a slow pace is intentional
        self._active: set[tuple[str, int | None]] = set()
        self._warned_s: dict[tuple[str, int | None], float] = {}
        self._found: list[InputWarning] = []  # by `on_piece`
        self.pieces = 0
        """Pieces that were checked since `taken`."""

    def on_piece(self, channel: int, samples: Float32, mean_square: float) -> None:
        """Check a piece that a session has measured."""
        self.pieces += 1
        self._found += self.check_samples(channel, samples, mean_square, time.monotonic())

    def taken(self) -> list[InputWarning]:
        """Return the warnings about pieces since the last call."""
        found, self._found, self.pieces = self._found, [], 0
        return found

    def paused(self) -> None:
        """Note a KeepAlive: the client pauses on purpose, so a slow pace in this window is not reported."""
        self._paused = True

    def arrived(self, seconds: float, now_s: float) -> InputWarning | None:
        """Note that audio of this length arrived now; return a warning if the pace is not real time."""
        if self._window_s is None:
            self._window_s = now_s
            return self._fast(seconds, 0.0, now_s) if seconds > 2 * LEAD_S else None
        self._window_audio_s += seconds
        wall_s = now_s - self._window_s
        audio_s = self._window_audio_s
        if audio_s - wall_s - self._debt_s > LEAD_S + seconds:
            self._restart(now_s)
            return self._fast(audio_s, wall_s, now_s)
        if wall_s < PACE_WINDOW_S:
            return None
        pace, paused = audio_s / wall_s, self._paused
        surplus = (audio_s - self._debt_s) / wall_s
        self._restart(now_s)
        if surplus > 1 + PACE_TOLERANCE:
            return self._fast(audio_s, wall_s, now_s)
        self._clear("too_fast", None)
        slow = pace < 1 - PACE_TOLERANCE and not paused
        self._debt_s = wall_s - audio_s if slow else 0.0
        self._slow_windows = self._slow_windows + 1 if slow else 0
        if self._slow_windows >= SLOW_WINDOWS:
            return self._warn(
                "too_slow",
                f"{audio_s:.1f} s of audio arrived in {wall_s:.1f} s, so scores fall behind. If audio is sent as it "
                f"is captured, the declared sample_rate of {self._rate_hz} Hz is too high, or the network is too slow; "
                "send KeepAlive during an intentional pause",
                None,
                now_s,
            )
        if not slow:
            self._clear("too_slow", None)
        return None

    def check_samples(self, channel: int, samples: Float32, mean_square: float, now_s: float) -> list[InputWarning]:
        """Check one channel's samples, a few thousand at a time; return warnings about once per second of audio.

        Args:
            channel: Index of the channel.
            samples: float32 (n,), n >= 1.
            mean_square: Mean square of these samples.
            now_s: Monotonic time, seconds.
        """
        sums = self._channels[channel]
        sums.samples += len(samples)
        sums.squares += mean_square * len(samples)
        if mean_square > LOUD_SQUARE:
            sums.jumps += int(np.count_nonzero(np.abs(np.diff(samples)) > JUMP))
        if sums.samples < self._rate_hz:
            return []
        seconds = sums.samples / self._rate_hz
        quiet = sums.squares < 10 ** (SILENCE_DBFS / 10) * sums.samples
        jumping = sums.jumps > JUMP_RATIO * sums.samples
        sums.samples, sums.squares, sums.jumps = 0, 0.0, 0
        sums.since_look_s += seconds
        sums.quiet_s = sums.quiet_s + seconds if quiet else 0.0
        sums.jumping_s = sums.jumping_s + seconds if jumping else 0.0
        silence = self._check(
            sums.quiet_s >= SILENCE_S,
            "silence",
            f"channel {channel} has been below {SILENCE_DBFS:g} dBFS for {sums.quiet_s:.0f} s: check that the "
            "microphone is open and the right channel is sent",
            channel,
            now_s,
        )
        mismatch = self._check(
            sums.jumping_s >= JUMPS_S,
            "encoding_mismatch",
            f"channel {channel} jumps between samples as speech does not, but as bytes in the wrong encoding do: check "
            f"the declared encoding ({self._encoding}) and the byte order",
            channel,
            now_s,
        )
        return [warn for warn in (silence, mismatch) if warn is not None]

    def levels_due(self, channel: int) -> bool:
        """Whether the level measures of a channel are due for `check_levels`."""
        return self._channels[channel].since_look_s >= LEVEL_CHECK_S

    def check_levels(self, channel: int, levels: Levels, samples: int, now_s: float) -> list[InputWarning]:
        """Check how the level measures of the whole stream have changed since the last check.

        Args:
            channel: Index of the channel.
            levels: Level measures of everything that the channel pushed.
            samples: Number of samples pushed.
            now_s: Monotonic time, seconds.
        """
        sums = self._channels[channel]
        sums.since_look_s = 0.0
        clipped = (levels.clipped_ratio or 0.0) * samples
        fresh, sums.clipped = clipped - sums.clipped, clipped  # negative if a higher peak disproves earlier clipping
        share = fresh / max(1, samples - sums.looked_at)
        sums.looked_at = samples
        width_hz, band_hz = levels.bandwidth_hz, self._rate_hz / 2
        narrow = width_hz is not None and width_hz < NARROW_SHARE * band_hz
        sums.narrow_checks = sums.narrow_checks + 1 if narrow else 0
        clipping = self._check(
            share >= CLIPPED_RATIO,
            "clipping",
            f"{100 * share:.1f} % of the samples of channel {channel} were clipped in the last {LEVEL_CHECK_S:g} s: "
            "lower the gain before the A/D converter",
            channel,
            now_s,
        )
        mismatch = self._check(
            sums.narrow_checks >= NARROW_CHECKS,
            "rate_mismatch",
            f"channel {channel} has no signal above {width_hz or 0:.0f} Hz of {band_hz:.0f} Hz: the actual rate seems "
            f"to be lower than the declared sample_rate of {self._rate_hz} Hz, or the audio was resampled from a lower "
            "rate",
            channel,
            now_s,
        )
        return [warn for warn in (clipping, mismatch) if warn is not None]

    def _fast(self, audio_s: float, wall_s: float, now_s: float) -> InputWarning | None:
        return self._warn(
            "too_fast",
            f"{audio_s:.1f} s of audio arrived in {wall_s:.1f} s. It is scored as fast as capacity allows, and the "
            "socket is read no faster. If audio is sent as it is captured, the declared sample_rate of "
            f"{self._rate_hz} Hz is too low",
            None,
            now_s,
        )

    def _restart(self, now_s: float) -> None:
        self._window_s, self._window_audio_s, self._paused, self._debt_s = now_s, 0.0, False, 0.0

    def _check(
        self, wrong: bool, code: WarningCode, message: str, channel: int | None, now_s: float
    ) -> InputWarning | None:
        if wrong:
            return self._warn(code, message, channel, now_s)
        self._clear(code, channel)
        return None

    def _clear(self, code: WarningCode, channel: int | None) -> None:
        self._active.discard((code, channel))

    def _warn(self, code: WarningCode, message: str, channel: int | None, now_s: float) -> InputWarning | None:
        key = (code, channel)
        if key in self._active or now_s - self._warned_s.get(key, -REPEAT_S) < REPEAT_S:
            return None
        self._active.add(key)
        self._warned_s[key] = now_s
        return InputWarning(code, message, channel)
