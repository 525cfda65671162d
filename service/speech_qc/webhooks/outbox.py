"""The outbox: which deliveries are next, and what became of them. Each function is one transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import delete, exists, func, or_, select, update

from speech_qc.call_store.database import Database
from speech_qc.call_store.schema import deliveries
from speech_qc.call_store.wall_clock import now_s

FAR_S = 3600.0
"""A due time or a claim this far in the future is none of ours: the clock was set back."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One webhook for one receiver."""

    number: int
    target: str
    call_id: str
    message_id: str
    body: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A delivery that failed, and the seconds until the next attempt."""

    delivery: Delivery
    wait_s: float


def claim(database: Database, target: str, most: int, lease_s: float, running: Collection[int] = ()) -> list[Delivery]:
    """Claim deliveries that are due, at most one per call: the oldest, so that a call's events stay in order.

    Args:
        database: The database.
        target: The receiver.
        most: Maximum number.
        lease_s: Seconds after which they may be claimed again, if nothing has been said of them until then.
        running: Numbers of deliveries that this process is sending, whatever became of their leases.
    """
    now, earlier = now_s(), deliveries.alias()
    first = ~exists().where(
        earlier.c.target == deliveries.c.target,
        earlier.c.call_id == deliveries.c.call_id,
        earlier.c.number < deliveries.c.number,
    )
    wanted = (
        select(deliveries)
        .where(deliveries.c.target == target, first, deliveries.c.number.not_in(running))
        .where(or_(deliveries.c.due_s <= now, deliveries.c.due_s > now + FAR_S))
        .where(or_(deliveries.c.claimed_until_s <= now, deliveries.c.claimed_until_s > now + FAR_S))
        .order_by(deliveries.c.due_s, deliveries.c.number)
        .limit(most)
        .with_for_update(skip_locked=True, of=deliveries)  # SQLite has no such clause and needs none: it is one writer
    )
    with database.writing(ordered=False) as connection:
        rows = connection.execute(wanted).all()
        if rows:
            numbers = [row.number for row in rows]
            connection.execute(
                update(deliveries).where(deliveries.c.number.in_(numbers)).values(claimed_until_s=now + lease_s)
            )
    return [Delivery(row.number, row.target, row.call_id, row.message_id, row.body, row.attempts) for row in rows]


def settle(database: Database, finished: Iterable[Delivery], failed: Sequence[Failure]) -> None:
    """Delete deliveries that are finished, and note when the others are due again."""
    now = now_s()
    with database.writing(ordered=False) as connection:
        numbers = [delivery.number for delivery in finished]
        if numbers:
            connection.execute(delete(deliveries).where(deliveries.c.number.in_(numbers)))
        for failure in failed:
            connection.execute(
                update(deliveries)
                .where(deliveries.c.number == failure.delivery.number)
                .values(attempts=failure.delivery.attempts + 1, due_s=now + failure.wait_s, claimed_until_s=0.0)
            )


def hasten(database: Database, target: str) -> None:
    """Make all deliveries to a receiver due now: it responds again."""
    with database.writing(ordered=False) as connection:
        connection.execute(
            update(deliveries)
            .where(deliveries.c.target == target, deliveries.c.due_s > now_s(), deliveries.c.claimed_until_s == 0.0)
            .values(due_s=now_s())
        )


def count_waiting(database: Database) -> int:
    """Return the number of deliveries that are not finished."""
    with database.reading() as connection:
        return connection.scalar(select(func.count()).select_from(deliveries)) or 0
