"""Webhooks: deliver the events in the outbox of `speech_qc.call_store`, signed as Standard Webhooks specify."""

from speech_qc.webhooks.config import WebhookConfig
from speech_qc.webhooks.sender import WebhookSender

__all__ = ["WebhookConfig", "WebhookSender"]
