"""What callers may be known by is masked unless a setting shows it: numbers, parameters, keys."""

from __future__ import annotations

from collections.abc import Mapping

from speech_qc.settings import Settings

KEYS = frozenset("0123456789ABCD*#")

MASK = "***"
MAX_FACTS = 32
"""Facts of a sender that are kept."""


def shown_names(settings: Settings) -> frozenset[str]:
    """Return the names of facts that are shown; `*` means all."""
    return frozenset(name.strip().lower() for name in settings.telephony_show.split(",") if name.strip())


def mask_facts(facts: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """Return what is known of a call, with every value masked whose name is not listed in the settings."""
    shown = shown_names(settings)
    return {
        name: value if "*" in shown or name.lower() in shown else MASK
        for name, value in list(facts.items())[:MAX_FACTS]
    }


def mask_digits(digits: str, settings: Settings) -> str:
    """Return keys that were pressed, with a `*` for each unless the settings show them; anything else is left out."""
    pressed = "".join(digit for digit in digits if digit in KEYS)
    return pressed if settings.show_digits else "*" * len(pressed)
