"""A process that publishes calls and delivers their webhooks, for tests that kill it.

    python call_process.py CALLS PAUSE_S

It reads the settings from the environment, as a server does, and prints a line when all events are stored.
"""

from __future__ import annotations

import sys
import time

from store_material import whole_call

from speech_qc.call_store import Results
from speech_qc.settings import load_settings
from speech_qc.telemetry.metrics import Metrics
from speech_qc.webhooks import WebhookConfig, WebhookSender
from waiting import block_until


def main(calls: int, pause_s: float) -> None:
    """Publish calls, then go on delivering until killed."""
    settings, metrics = load_settings(), Metrics()
    config = WebhookConfig.of(settings)
    results = Results(settings, config.subscription, metrics)
    sender = WebhookSender(results.database, config, metrics)
    results.on_deliveries(sender.wake)
    results.start()
    sender.start()
    for number in range(calls):
        for one in whole_call(f"c{number}"):
            results.publish(one)
        time.sleep(pause_s)
    block_until(lambda: not results._writer.waiting, "all events are stored", patience_s=20)
    sys.stdout.write("stored\n")
    sys.stdout.flush()
    time.sleep(600)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
