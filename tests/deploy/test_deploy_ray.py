"""The RayJob of KubeRay: its fields, its pods by the schema of Kubernetes, and its command by our own options."""

from __future__ import annotations

import re
import shlex
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml
from docker_engine import ROOT

from speech_qc.cli.main import app

JOB: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "ray" / "rayjob.yaml").read_text(encoding="utf-8"))
CLUSTER = JOB["spec"]["rayClusterSpec"]
GROUPS = [CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"]]

FIELDS = {
    "RayJobSpec": {
        "activeDeadlineSeconds", "backoffLimit", "entrypoint", "jobId", "metadata", "rayClusterSpec", "runtimeEnvYAML",
        "shutdownAfterJobFinishes", "submissionMode", "submitterPodTemplate", "suspend", "ttlSecondsAfterFinished",
    },
    "RayClusterSpec": {
        "autoscalerOptions", "enableInTreeAutoscaling", "headGroupSpec", "rayVersion", "workerGroupSpecs",
    },
    "HeadGroupSpec": {"rayStartParams", "serviceType", "template"},
    "WorkerGroupSpec": {
        "groupName", "maxReplicas", "minReplicas", "numOfHosts", "rayStartParams", "replicas", "template",
    },
}  # fmt: skip
"""Names of fields of `ray.io/v1`, after KubeRay's API reference."""


def test_it_has_only_fields_of_the_api() -> None:
    assert (JOB["apiVersion"], JOB["kind"]) == ("ray.io/v1", "RayJob")
    assert set(JOB["spec"]) <= FIELDS["RayJobSpec"]
    assert set(CLUSTER) <= FIELDS["RayClusterSpec"]
    assert set(CLUSTER["headGroupSpec"]) <= FIELDS["HeadGroupSpec"]
    for group in CLUSTER["workerGroupSpecs"]:
        assert set(group) <= FIELDS["WorkerGroupSpec"]
        assert {"groupName", "minReplicas", "maxReplicas", "template"} <= set(group), "these are required"
    assert all(isinstance(value, str) for group in GROUPS for value in group["rayStartParams"].values())


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.get("groupName", "head"))
def test_its_pods_are_valid_and_have_no_privileges(group: dict[str, Any]) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}} | group["template"]
    kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
    assert pod["spec"]["securityContext"]["runAsNonRoot"]
    for container in pod["spec"]["containers"]:
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert container["resources"]["limits"]["memory"]


def test_a_wrong_pod_would_be_found() -> None:
    container = {"name": "a", "image": "b", "securityContext": {"runAsNotRoot": True}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": {"containers": [container]}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


def test_its_command_is_one_of_ours_and_fills_the_cluster() -> None:
    program, command, *arguments = shlex.split(JOB["spec"]["entrypoint"])
    assert (program, command) == ("speech-qc", "archive")
    group = typer.main.get_command(app)
    run = group.commands["archive"].commands["run"]  # type: ignore[attr-defined]
    values = run.make_context("run", arguments).params
    assert values["engine"] == "ray" and values["out"].startswith("s3://")
    (workers,) = CLUSTER["workerGroupSpecs"]
    cpus = int(workers["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"])
    assert values["workers"] == cpus * workers["replicas"]


def test_image_and_job_have_the_same_ray() -> None:
    dockerfile = (ROOT / "deploy" / "ray" / "Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"rayproject/ray:([\d.]+)-py311-cpu", dockerfile) == [CLUSTER["rayVersion"]]
