"""Properties of the Compose file: limited, unprivileged, on loopback, monitored."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from compose_files import services
from speech_qc.cli.doctor_checks import needed_mib
from speech_qc.settings import Settings
from speech_qc.workers.supervisor import KILL_GRACE_S

ROOT = Path(__file__).resolve().parents[2]
SERVICES = services("docker-compose.yml")


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_bounded_and_has_no_privileges(name):
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"cpus", "mem_limit", "pids_limit"} <= set(service)
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:"), f"{name} listens on all interfaces at {port}"


@pytest.mark.parametrize("name", [name for name in SERVICES if "build" not in SERVICES[name]])
def test_images_are_named_by_a_tag_that_does_not_move(name):
    assert SERVICES[name]["image"].split(":")[1] not in ("", "latest", "main")
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"


def test_the_service_may_start_without_keys_since_its_port_stays_on_this_machine():
    assert SERVICES["speech-qc"]["environment"]["SPEECHQC_ALLOW_ANONYMOUS"] == "true"
    assert SERVICES["speech-qc"]["environment"]["SPEECHQC_LOG_FORMAT"] == "json"


@pytest.mark.parametrize("name", SERVICES)
def test_no_log_fills_the_disk(name):
    assert SERVICES[name]["logging"] == {"driver": "local", "options": {"max-size": "20m", "max-file": "5"}}


def test_each_waits_for_what_it_asks():
    assert "speech-qc" not in SERVICES["prometheus"]["depends_on"], "it is wanted most when the service does not start"
    for name, needs in (("prometheus", "alertmanager"), ("grafana", "prometheus")):
        assert SERVICES[name]["depends_on"][needs] == {"condition": "service_healthy"}


def test_everything_that_is_mounted_exists():
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source, _, rest = volume.partition(":")
            if source.startswith("."):
                assert (ROOT / source).is_dir(), source
                assert rest.endswith(":ro"), volume


def test_the_service_is_given_longer_to_end_than_its_drain_lasts():
    grace_s = int(SERVICES["speech-qc"]["stop_grace_period"].removesuffix("s"))
    assert (
        grace_s >= Settings.model_fields["drain_s"].default + KILL_GRACE_S + 5
    )  # the parent of several workers, and its end


def test_the_service_has_the_memory_that_its_bounds_allow_clients_to_fill():
    limit_mib = 1024 * int(SERVICES["speech-qc"]["mem_limit"].removesuffix("g"))
    assert needed_mib(Settings()) < 0.8 * limit_mib


@pytest.mark.parametrize("name", SERVICES)
def test_whatever_ends_by_itself_is_started_again(name):
    assert SERVICES[name]["restart"] == "unless-stopped"


def test_a_dead_engine_is_scraped_before_its_process_ends():
    prometheus = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text(encoding="utf-8"))
    scraped_s = int(prometheus["global"]["scrape_interval"].removesuffix("s"))
    assert Settings.model_fields["exit_when_dead_s"].default >= 2 * scraped_s


def test_configurations_of_alertmanager_and_grafana_fit_together():
    alertmanager = yaml.safe_load((ROOT / "deploy/alertmanager/alertmanager.yml").read_text(encoding="utf-8"))
    assert alertmanager["route"]["receiver"] in [receiver["name"] for receiver in alertmanager["receivers"]]
    sources = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text("utf-8"))
    assert sources["datasources"][0]["uid"] == "prometheus"
    boards = yaml.safe_load((ROOT / "deploy/grafana/provisioning/dashboards/boards.yml").read_text("utf-8"))
    folder = boards["providers"][0]["options"]["path"]
    assert any(volume.split(":")[1] == folder for volume in SERVICES["grafana"]["volumes"])
