"""The record of calls: what their events said, in a database or in memory, for requests, watchers and webhooks.

Nothing here knows HTTP. `Results` is the door: calls publish to it, routes read from it, `speech_qc.webhooks` delivers
what it has put into the outbox.
"""

from speech_qc.call_store.results import Results

__all__ = ["Results"]
