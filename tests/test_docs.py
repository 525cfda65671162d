"""Documents are held against the code."""

import re
from pathlib import Path

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
