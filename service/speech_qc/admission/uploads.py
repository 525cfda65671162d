"""A limit on concurrent uploads, and a count of how each of them ended. Independent of HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from speech_qc.admission.memory import MemoryBudget, Reservation
from speech_qc.admission.quotas import Quotas
from speech_qc.errors import Draining, Overloaded, ProtocolError, SpeechQCError
from speech_qc.security.caller import Caller
from speech_qc.telemetry.metrics import ABORTED, DISCONNECTED, OK, Metrics
from speech_qc.telemetry.tracing import note


class ClientLeft(ProtocolError):
    """The client disconnected before it received its response."""


class UploadPlaces:
    """The places for uploads of one process; used from one event loop.

    Args:
        limit: Maximum concurrent uploads.
        quotas: Limits of each API key.
        memory: Memory limit for all uploads together.
        metrics: Counts uploads.
    """

    def __init__(self, limit: int, quotas: Quotas, memory: MemoryBudget, metrics: Metrics) -> None:
        self._limit, self._quotas, self._memory, self._metrics = limit, quotas, memory, metrics
        self.taken = 0

    @contextmanager
    def take(self, caller: Caller) -> Iterator[Reservation]:
        """Take a place for one upload, and count how the upload ended.

        Raises:
            Overloaded: All places are taken, the caller's quota is used up, or no memory is left.
        """
        metrics = self._metrics
        if self.taken >= self._limit:
            metrics.uploads.labels(Overloaded.code).inc()
            metrics.refuse("uploads")
            raise Overloaded(
                f"all {self._limit} places for uploads are taken: try again in a second", limit=self._limit
            )
        self.taken += 1
        metrics.uploads_active.inc()
        outcome = ABORTED
        try:
            with self._memory.reserve() as reservation, self._quotas.upload(caller):
                yield reservation
            outcome = OK
        except ClientLeft:
            outcome = DISCONNECTED
            raise
        except SpeechQCError as error:
            outcome = error.code
            note({"error.type": error.code})
            raise
        except asyncio.CancelledError:  # the server is shutting down and could not finish it in time
            outcome = Draining.code
            raise
        except Exception:
            outcome = SpeechQCError.code  # the code in the response
            raise
        finally:
            self.taken -= 1
            metrics.uploads_active.dec()
            metrics.uploads.labels(outcome).inc()
