"""Recording and alert rules: valid, tested, documented."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from programs import run

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"


def alerts():
    document = yaml.safe_load((PROMETHEUS / "rules" / "alerts.yml").read_text(encoding="utf-8"))
    return {rule["alert"]: rule for group in document["groups"] for rule in group["rules"]}


def test_promtool_accepts_configuration_and_rules():
    assert "SUCCESS" in run("promtool", "check", "config", str(PROMETHEUS / "prometheus.yml"))
    run("promtool", "check", "rules", *map(str, sorted((PROMETHEUS / "rules").glob("*.yml"))))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alerts.yml", "hours.yml"])
def test_alerts_fire_when_they_should_and_only_then(name):
    assert "SUCCESS" in run("promtool", "test", "rules", str(PROMETHEUS / "tests" / name))


def test_every_alert_has_a_case():
    cases = "".join(path.read_text(encoding="utf-8") for path in (PROMETHEUS / "tests").glob("*.yml"))
    for name in alerts():
        assert f'alertname="{name}"' in cases, name


def test_every_alert_leads_to_a_paragraph_of_the_runbook():
    runbook = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    for name, rule in alerts().items():
        assert rule["annotations"]["runbook_url"].endswith(f"docs/runbook.md#{name.lower()}"), name
        paragraph = re.search(rf"^## {name}\n\n(.+?)(?=\n## |\Z)", runbook, re.M | re.S)
        assert paragraph is not None, name
        assert len(paragraph.group(1)) > 150, f"{name}: say what it means, where to look, what to do"


def test_the_runbook_has_no_paragraph_of_an_alert_that_is_gone():
    runbook = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^## (SpeechQC\w+)", runbook, re.M)) == set(alerts())


def test_every_alert_says_how_bad_it_is_and_what_happened():
    for name, rule in alerts().items():
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        assert rule["annotations"]["summary"] and rule["annotations"]["description"], name
