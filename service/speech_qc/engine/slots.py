"""Maps sessions to rows of the state array and decides when a row can be reused."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from speech_qc.engine.entry import Entry
from speech_qc.errors import Overloaded


@dataclass(slots=True, eq=False)
class Slot:
    """The slot of an open session: a row of the state array, and at most one entry."""

    row: int
    entry: Entry | None = None
    """Queued or running; None if the session may submit."""


class SlotTable:
    """Owns session numbers and slots; used from the event loop only.

    Slots are reused but session numbers are not, so a number used after its session was closed is an error and never
    refers to another stream.

    Args:
        capacity: Number of slots, which is the maximum number of open sessions.
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
            raise ValueError(f"expected the number of an open session, got {number}, which is not open") from None

    def open(self) -> tuple[int, int]:
        """Open a session in a free slot.

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
        """Close the session; its slot is free immediately, or after the step that is using it.

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
            entry.reply.cancel()  # dropped when popped, so it never runs for the slot's next session

    def release(self, entry: Entry) -> None:
        """Release a finished entry, so that its session may submit again or its slot be reused."""
        session = self._sessions.get(entry.session)
        if session is not None:
            session.entry = None
        elif entry.running:
            self._free_slots.append(entry.slot)
