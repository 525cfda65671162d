"""Documents match the code."""

import re
import shutil
from pathlib import Path

import pytest
import soundfile
import soxr

import speech_qc
from rtp_captures import Capture, mulaw, sent
from speech_qc.embedded import detector
from speech_qc.scoring import EXPORTS, load_profiles
from speech_qc.version import __version__
from test_errors import served

ROOT = Path(__file__).resolve().parent.parent


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_error_code_is_documented_with_its_status():
    api = text("docs/api.md")
    for kind in served():
        if kind.code in ("startup_error", "settings_error", "contract_error"):
            assert f"`{kind.code}`" in api
        else:
            assert f"| `{kind.code}` | {kind.http_status} |" in api, kind


def test_every_format_and_profile_is_documented():
    api = text("docs/api.md")
    for name in (*EXPORTS, *load_profiles().names):
        assert f"`{name}`" in api, name


def test_the_changelog_knows_the_version():
    assert re.search(rf"^## \[{re.escape(__version__)}\] - \d{{4}}-\d\d-\d\d$", text("CHANGELOG.md"), re.M)


def anchors(page: str) -> set[str]:
    """Anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page, flags=re.M | re.S), re.M)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)
    return set(plain) | set(re.findall(r'<a id="([^"]+)">', page))


def test_links_within_documents_lead_to_a_heading():
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", path.read_text(encoding="utf-8")):
            page = (path.parent / target if target else path).read_text(encoding="utf-8")
            assert anchor in anchors(page), f"{path.name} links to {target}#{anchor}"


def test_links_between_documents_lead_somewhere():
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")),
                 ROOT / "models/README.md", ROOT / "examples/README.md"]:  # fmt: skip
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            if not target.startswith(("http:", "https:", "mailto:")):
                assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_every_make_target_has_a_help_text():
    makefile = text("Makefile")
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.M)
    assert phony is not None
    for target in phony.group(1).split():
        assert re.search(rf"^{target}:.*##", makefile, re.M), target


def test_nothing_in_the_readme_asks_for_a_command_that_does_not_exist():
    makefile = text("Makefile")
    for target in re.findall(r"`?make ([a-z-]+)", text("README.md")):
        assert re.search(rf"^{target}:", makefile, re.M), target


PYTHON_EXAMPLES = re.findall(r"^```python\n(.+?)^```\n\n```text\n(.+?)^```$", text("docs/python.md"), re.M | re.S)
NUMBER = re.compile(r"-?\d+\.\d+")


def test_every_python_example_of_the_api_is_run():
    assert len(PYTHON_EXAMPLES) == len(re.findall(r"^```python$", text("docs/python.md"), re.M)) >= 5


@pytest.mark.parametrize(("code", "shown"), PYTHON_EXAMPLES, ids=range(len(PYTHON_EXAMPLES)))
def test_a_python_example_prints_what_the_page_shows(code, shown, tmp_path, sample_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPEECHQC_DEVICE", "cpu")
    monkeypatch.setattr(detector, "_detector", None)
    Path("calls").mkdir()
    for name in ("call.wav", "calls/a.wav", "calls/b.wav"):
        shutil.copy(sample_path, name)
    samples, _ = soundfile.read(sample_path, dtype="float32")
    packets = sent(mulaw(soxr.resample(samples, 16_000, 8_000)))
    Path("trunk.pcap").write_bytes(Capture().add([one for i, one in enumerate(packets) if i % 50 != 20]).pcap())

    exec(compile(code, "docs/python.md", "exec"), {})

    printed = capsys.readouterr().out
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", shown)
    # Other processors round differently, so a score near a threshold may cross it one frame earlier.
    expected = [pytest.approx(float(number), abs=0.05) for number in NUMBER.findall(shown)]
    assert [float(number) for number in NUMBER.findall(printed)] == expected


def test_every_public_name_and_every_setting_of_the_python_api_is_documented():
    page = text("docs/python.md")
    for name in speech_qc.__all__:
        if not name.startswith("__"):
            assert re.search(rf"\b{name}\b", page), name
    for variable in re.findall(r"`(SPEECHQC_\w+)`", page):
        assert f"`{variable}`" in text("docs/settings.md") or variable == "SPEECHQC_CONFIG", variable
