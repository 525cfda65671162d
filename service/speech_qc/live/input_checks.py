"""Looks at a live stream for what its sender should know now: wrong pace, silence, clipping, a wrong declaration.

Warnings change nothing in the scores. Each code is said when its trouble begins and again only after it was gone and
`REPEAT_S` have passed, so that a bad line does not fill the socket.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio.levels import Levels
from speech_qc.wire.vocabulary import WarningCode

Float32 = NDArray[np.float32]

PACE_WINDOW_S = 10.0
"""Arrivals are compared with the clock over so long; jitter and one-second messages must not count as a wrong pace."""

PACE_TOLERANCE = 0.1
"""Share by which the pace may differ from real time; clocks differ by 0.01 %, wrong rates by half or more."""

SLOW_WINDOWS = 2
"""In a row: a network that stalls once has not the wrong pace."""

LEAD_S = 3.0
"""Audio ahead of the clock by more than this is no jitter, but a sender faster than real time."""

SILENCE_DBFS = -70.0
"""Below it no microphone is open."""

SILENCE_S = 10.0
"""Longer than people pause on a line that works."""

LOOK_S = 10.0
"""Audio between two looks at the level measures."""

CLIPPED_RATIO = 0.001
"""Share of cut-off samples since the last look that is worth a warning: audible in speech."""

NARROW_SHARE = 0.25
"""Share of the band below which all signal lies when the declared rate is too high for the content."""

NARROW_LOOKS = 3
"""Looks in a row that must find it: a hum before anybody speaks is narrow, too."""

JUMP = 0.5
JUMP_RATIO = 0.06
"""Steps between neighbours that are larger than half of full scale: clipped speech has below 1 % of them, bytes
that are read in the wrong encoding 9 % and more (but µ-law read as A-law, which stays speech)."""

JUMPS_S = 3.0
"""So long must they last; a crackling plug does not."""

LOUD_SQUARE = 0.01
"""Mean square (-20 dBFS) below which there cannot be so many jumps; spares the count."""

REPEAT_S = 30.0
"""Seconds before the same code is said again."""


@dataclass(frozen=True, slots=True)
class InputWarning:
    """One warning; `channel` is None when it speaks of the whole stream."""

    code: WarningCode
    message: str
    channel: int | None = None


@dataclass(slots=True)
class _Channel:
    """Sums over the second of audio that is being heard, and what earlier ones showed."""

    samples: int = 0
    squares: float = 0.0
    jumps: int = 0
    quiet_s: float = 0.0
    jumping_s: float = 0.0
    since_look_s: float = 0.0
    clipped: float = 0.0  # samples, at the last look
    looked_at: int = 0  # samples, at the last look
    narrow_looks: int = 0


class InputChecks:
    """Watches one stream; owned by one task.

    Args:
        rate_hz: Declared rate.
        channels: Channels of the stream.
        encoding: Declared encoding.
    """

    def __init__(self, rate_hz: int, channels: int, encoding: str) -> None:
        self._rate_hz = rate_hz
        self._encoding = encoding
        self._channels = [_Channel() for _ in range(channels)]
        self._window_s: float | None = None  # time at which the pace window began
        self._window_audio_s = 0.0
        self._slow_windows = 0
        self._debt_s = 0.0  # audio missing in the last window: what is made up for is not too fast
        self._paused = False  # the client said KeepAlive: it may be slow on purpose
        self._active: set[tuple[str, int | None]] = set()
        self._said_s: dict[tuple[str, int | None], float] = {}

    def paused(self) -> None:
        """The client keeps the stream alive without audio, so the pace of this window means nothing."""
        self._paused = True

    def arrived(self, seconds: float, now_s: float) -> InputWarning | None:
        """Note that audio of this length came now; say when the pace is not that of real time."""
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
            return self._say(
                "too_slow",
                f"{audio_s:.1f} s of audio came in {wall_s:.1f} s, so scores fall behind. If audio is sent as it "
                f"is captured, the declared sample_rate of {self._rate_hz} Hz is too high, or the network is too slow; "
                "send KeepAlive where a pause is meant",
                None,
                now_s,
            )
        if not slow:
            self._clear("too_slow", None)
        return None

    def heard(self, channel: int, samples: Float32, mean_square: float, now_s: float) -> list[InputWarning]:
        """Take one channel's samples, some thousand at a time; about once a second of audio there is a verdict on them.

        Args:
            channel: Index of the channel.
            samples: float32 (n,), n >= 1.
            mean_square: Of these samples.
            now_s: Monotonic seconds.
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
        silence = self._hold(
            sums.quiet_s >= SILENCE_S,
            "silence",
            f"channel {channel} has been below {SILENCE_DBFS:g} dBFS for {sums.quiet_s:.0f} s: is the microphone open "
            "and the right channel sent?",
            channel,
            now_s,
        )
        mismatch = self._hold(
            sums.jumping_s >= JUMPS_S,
            "encoding_mismatch",
            f"channel {channel} jumps from sample to sample as no speech does, but bytes in the wrong encoding do: "
            f"declared is {self._encoding}; check it, and the byte order",
            channel,
            now_s,
        )
        return [warn for warn in (silence, mismatch) if warn is not None]

    def wants_look(self, channel: int) -> bool:
        """Whether it is time to show the level measures of a channel to `look`."""
        return self._channels[channel].since_look_s >= LOOK_S

    def look(self, channel: int, levels: Levels, samples: int, now_s: float) -> list[InputWarning]:
        """Judge what the level measures of the whole stream so far say of the time since the last look.

        Args:
            channel: Index of the channel.
            levels: Of everything the channel pushed.
            samples: How many samples that is.
            now_s: Monotonic seconds.
        """
        sums = self._channels[channel]
        sums.since_look_s = 0.0
        clipped = (levels.clipped_ratio or 0.0) * samples
        fresh, sums.clipped = clipped - sums.clipped, clipped  # negative when a higher top made the old one intact
        share = fresh / max(1, samples - sums.looked_at)
        sums.looked_at = samples
        width_hz, band_hz = levels.bandwidth_hz, self._rate_hz / 2
        narrow = width_hz is not None and width_hz < NARROW_SHARE * band_hz
        sums.narrow_looks = sums.narrow_looks + 1 if narrow else 0
        clipping = self._hold(
            share >= CLIPPED_RATIO,
            "clipping",
            f"{100 * share:.1f} % of the samples of channel {channel} were cut off in the last {LOOK_S:g} s: lower the "
            "gain before the converter",
            channel,
            now_s,
        )
        mismatch = self._hold(
            sums.narrow_looks >= NARROW_LOOKS,
            "rate_mismatch",
            f"channel {channel} has no signal above {width_hz or 0:.0f} Hz of {band_hz:.0f} Hz: the audio seems to be "
            f"slower than the declared sample_rate of {self._rate_hz} Hz, or was resampled from a lower one",
            channel,
            now_s,
        )
        return [warn for warn in (clipping, mismatch) if warn is not None]

    def _fast(self, audio_s: float, wall_s: float, now_s: float) -> InputWarning | None:
        return self._say(
            "too_fast",
            f"{audio_s:.1f} s of audio came in {wall_s:.1f} s: it is scored as fast as there is room, and the socket "
            f"is read no faster. If audio is sent as it is captured, the declared sample_rate of {self._rate_hz} Hz is "
            "too low",
            None,
            now_s,
        )

    def _restart(self, now_s: float) -> None:
        self._window_s, self._window_audio_s, self._paused, self._debt_s = now_s, 0.0, False, 0.0

    def _hold(
        self, wrong: bool, code: WarningCode, message: str, channel: int | None, now_s: float
    ) -> InputWarning | None:
        if wrong:
            return self._say(code, message, channel, now_s)
        self._clear(code, channel)
        return None

    def _clear(self, code: WarningCode, channel: int | None) -> None:
        self._active.discard((code, channel))

    def _say(self, code: WarningCode, message: str, channel: int | None, now_s: float) -> InputWarning | None:
        key = (code, channel)
        if key in self._active or now_s - self._said_s.get(key, -REPEAT_S) < REPEAT_S:
            return None
        self._active.add(key)
        self._said_s[key] = now_s
        return InputWarning(code, message, channel)
