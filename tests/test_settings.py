import pytest

from service.errors import SettingsError
from service.settings import Settings, load_settings


def test_every_setting_says_what_it_means():
    for name, field in Settings.model_fields.items():
        assert field.description, f"{name} has no docstring"


def test_environment_sets_and_overrides_win(monkeypatch):
    monkeypatch.setenv("SPEECHQC_PORT", "9000")
    monkeypatch.setenv("SPEECHQC_MAX_CHANNELS", "2")
    assert load_settings().port == 9000
    assert load_settings(port=9001, host=None) == Settings(port=9001, max_channels=2)


def test_wrong_values_are_all_named_with_their_variable(monkeypatch):
    monkeypatch.setenv("SPEECHQC_PORT", "70000")
    monkeypatch.setenv("SPEECHQC_DEVICE", "tpu")
    monkeypatch.setenv("SPEECHQC_LIVE_CHUNK_HOPS", "7")
    with pytest.raises(SettingsError) as raised:
        load_settings()
    for part in ("SPEECHQC_PORT='70000'", "65535", "SPEECHQC_DEVICE='tpu'", "SPEECHQC_LIVE_CHUNK_HOPS='7'"):
        assert part in raised.value.message
