"""Which session holds which row of the state array, and when a row may change hands."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from speech_qc.engine.entry import Entry
from speech_qc.errors import Overloaded


@dataclass(slots=True, eq=False)
class Slot:
    """The place of an open session: a row of the state array, and at most one entry."""

    row: int
    entry: Entry | None = None
    """Waiting or running; None when the session may submit."""


class SlotTable:
    """Owns session numbers and slots; used from the event loop only.

    Numbers are never given twice, unlike the slots behind them, so that a number used after its close is an error
    and never a stranger's stream.

    Args:
        capacity: Slots, that is sessions that can be open at the same time.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._free_slots = list(range(capacity))[::-1]  # taken from the end, so that slot 0 is the first
        self._sessions: dict[int, Slot] = {}
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._sessions)

    def __getitem__(self, number: int) -> Slot:
        """Look up an open session.

        Raises:
            ValueError: No session of this number is open.
        """
        try:
            return self._sessions[number]
        except KeyError:
            raise ValueError(f"session {number} is not open; submit and close take numbers of open ones") from None

    def open(self) -> tuple[int, int]:
        """Take a slot.

        Returns:
            The new session's number, and its slot.

        Raises:
            Overloaded: All slots are taken.
        """
        if not self._free_slots:
            raise Overloaded(
                f"no room for another stream: all {self._capacity} places are taken; try again later",
                limit=self._capacity,
            )
        number = next(self._numbers)
        session = self._sessions[number] = Slot(self._free_slots.pop())
        return number, session.row

    def close(self, number: int) -> None:
        """Forget the session; its slot is free at once, or after the step that is writing to it.

        Raises:
            ValueError: No session of this number is open.
        """
        session = self[number]
        del self._sessions[number]
        entry = session.entry
        if entry is not None and entry.running:
            return  # `release` frees the slot
        self._free_slots.append(session.row)
        if entry is not None:
            entry.future.cancel()  # dropped when popped, so it never meets the slot's next owner

    def release(self, entry: Entry) -> None:
        """Note that the entry has left the engine, so that its session may submit or its slot be reused."""
        session = self._sessions.get(entry.session)
        if session is not None:
            session.entry = None
        elif entry.running:
            self._free_slots.append(entry.slot)
