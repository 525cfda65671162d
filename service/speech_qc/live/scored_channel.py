"""One channel of a live stream, as the engine and the group of all live channels know it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from speech_qc.engine import GroupResult
from speech_qc.pipeline.channel_scores import Update
from speech_qc.pipeline.session import Session
from speech_qc.pipeline.shared_channels import SharedChannels

if TYPE_CHECKING:
    from speech_qc.live.scorer import Scorer

Float32 = NDArray[np.float32]

_T = TypeVar("_T")


class ScoredChannel:
    """One channel of a scorer, as the engine and the channels' group know it.

    It forgets both at the end: the engine may hold the last entries until it has new ones.

    Attributes:
        number: Its engine session.
        retried: Whether its chunk has failed before.
        update: Its results that wait for those of the other channels.
    """

    __slots__ = ("_scorer", "group", "number", "retried", "session", "text_only", "update")

    def __init__(
        self, scorer: Scorer, number: int, session: Session, group: SharedChannels, *, text_only: bool
    ) -> None:
        self._scorer: Scorer | None = scorer
        self.number, self.session, self.group, self.text_only = number, session, group, text_only
        self.retried = False
        self.update: Update | None = None

    def close(self) -> None:
        """Forget the scorer and the session."""
        self._scorer = None
        del self.session

    def done(self) -> bool:
        """Whether it needs no results, because it is closed."""
        return self._scorer is None

    def cancel(self) -> bool:
        """Take note of nothing: its scorer has closed it."""
        return True

    def set_exception(self, error: BaseException, /) -> None:
        """Take the failure to score its chunk."""
        if self._scorer is not None:
            self._scorer.missed(self, error)

    def cut(self) -> Float32:
        """Cut the next chunk, because its step begins."""
        return required(self._scorer).cut(self.session)

    def told(self, text: list[bytes], frames: int, result: GroupResult, queue_s: float) -> None:
        """Take the next frames as JSON; see `speech_qc.pipeline.shared_channels.Listener`."""
        if self._scorer is not None:
            self._scorer.told(text, frames, result, queue_s)

    def updated(self, update: Update, result: GroupResult, queue_s: float) -> None:
        """Take the next frames and events."""
        if self._scorer is not None:
            self.update = update
            self._scorer.updated(result, queue_s)

    def failed(self, error: Exception) -> None:
        """Note that the scores could not be taken; the stream cannot continue."""
        if self._scorer is not None:
            self._scorer.fail(error)


def required(value: _T | None) -> _T:
    """Return the value; if it is missing, the channels of a stream are out of step."""
    if value is None:
        raise RuntimeError("the channels of a stream are out of step")
    return value
