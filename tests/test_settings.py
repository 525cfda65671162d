import traceback

import pytest

from speech_qc.cli.settings import meanings
from speech_qc.errors import SettingsError
from speech_qc.settings import Settings, is_secret, load_settings


def test_every_setting_says_what_it_means():
    undocumented = Settings.model_fields.keys() - {name for name, text in meanings().items() if text}
    assert not undocumented, f"without a docstring: {', '.join(sorted(undocumented))}"


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


@pytest.mark.parametrize(
    ("name", "text"),
    [("qc.toml", 'port = 9000\ndevice = "cpu"\n'), ("qc.yaml", "port: 9000\ndevice: cpu\n")],
)
def test_a_file_sets_what_the_environment_does_not(tmp_path, monkeypatch, name, text):
    (tmp_path / name).write_text(text)
    monkeypatch.setenv("SPEECHQC_CONFIG", str(tmp_path / name))
    assert (load_settings().port, load_settings().device) == (9000, "cpu")
    monkeypatch.setenv("SPEECHQC_PORT", "9001")
    assert load_settings().port == 9001
    assert load_settings(port=9002).port == 9002


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("qc.toml", "port = 70000\n", r"SPEECHQC_PORT=70000 in .*qc\.toml: .*65535"),
        ("qc.toml", "prot = 1\nhost = 'x'\n", "unknown settings: prot;"),
        ("qc.toml", "port = = 1\n", "SPEECHQC_CONFIG=.*line 1"),
        ("qc.yml", "port: [1\n", "SPEECHQC_CONFIG="),
        ("qc.yml", "- port\n", "got a list"),
        ("qc.ini", "port=1\n", r"ends in \.toml, \.yaml or \.yml, got \.ini"),
    ],
)
def test_a_wrong_file_stops_the_start_and_says_where(tmp_path, monkeypatch, name, text, complaint):
    (tmp_path / name).write_text(text)
    monkeypatch.setenv("SPEECHQC_CONFIG", str(tmp_path / name))
    with pytest.raises(SettingsError, match=complaint):
        load_settings()


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [
        ("qc.yaml", "port: 1\ntoken_secret: [hunter2hunter2hunter2\n", "line 3"),
        ("qc.yaml", "token_secret: *hunter2hunter2\n", "line 1, column 15"),
        ("qc.yaml", 'token_secret: "hunter2\\qhunter2"\n', "line 1"),
        ("qc.toml", 'token_secret = "hunter2hunter2\n', "line 1"),
        ("qc.toml", "token_secret = hunter2hunter2\n", "line 1"),
    ],
)
def test_a_file_that_cannot_be_read_is_not_quoted(tmp_path, monkeypatch, name, text, where):
    """The invalid line may contain a secret."""
    (tmp_path / name).write_text(text)
    monkeypatch.setenv("SPEECHQC_CONFIG", str(tmp_path / name))
    with pytest.raises(SettingsError, match=where) as raised:
        load_settings()
    assert "hunter2" not in "".join(traceback.format_exception(raised.value))


def test_a_file_that_is_not_there_stops_the_start(monkeypatch):
    monkeypatch.setenv("SPEECHQC_CONFIG", "/none/qc.toml")
    with pytest.raises(SettingsError, match=r"/none/qc\.toml.*No such file"):
        load_settings()


def test_an_empty_file_sets_nothing(tmp_path, monkeypatch):
    (tmp_path / "qc.yaml").write_text("# nothing yet\n")
    monkeypatch.setenv("SPEECHQC_CONFIG", str(tmp_path / "qc.yaml"))
    assert load_settings().port == 8000


def test_a_wrong_secret_is_not_shown(monkeypatch):
    monkeypatch.setattr("speech_qc.settings.is_secret", lambda name: name == "port")
    monkeypatch.setenv("SPEECHQC_PORT", "hunter2")
    with pytest.raises(SettingsError) as raised:
        load_settings()
    assert "SPEECHQC_PORT=**********" in raised.value.message
    assert "hunter2" not in raised.value.message
    assert raised.value.__cause__ is None and raised.value.__suppress_context__


def test_fields_that_are_named_like_secrets_are_hidden(monkeypatch):
    from pydantic.fields import FieldInfo

    fields = {name: FieldInfo(annotation=str) for name in ("admin_key", "api_keys_file", "token_ttl_s", "push_token")}
    monkeypatch.setattr(Settings, "__pydantic_fields__", fields)
    assert [name for name in fields if is_secret(name)] == ["admin_key", "push_token"]


@pytest.mark.parametrize("value", ["inf", "nan"])
def test_a_bound_is_a_finite_number(monkeypatch, value):
    monkeypatch.setenv("SPEECHQC_DRAIN_S", value)
    with pytest.raises(SettingsError, match=f"SPEECHQC_DRAIN_S='{value}'.*finite number"):
        load_settings()
