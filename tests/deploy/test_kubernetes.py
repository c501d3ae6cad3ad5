"""The Kubernetes manifests: by Kubernetes' own schemas, and each name in one of them is there in the other."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any
from urllib.parse import quote

import kubernetes_validate
import pytest
import yaml

from broker_jobs.broker import names
from broker_jobs.settings import PREFIX, Settings
from tests.deploy.test_compose import DOCKERFILE, services
from tests.support.shipped import ROOT, ShippedBroker
from tests.support.wait import eventually

FOLDER = ROOT / "deploy" / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))
VERSIONS = ("1.28", "1.31", kubernetes_validate.latest_version())
FOREIGN = {"keda.sh/v1alpha1", "monitoring.coreos.com/v1", "kustomize.config.k8s.io/v1beta1"}
"""Of operators: no schema of Kubernetes' own."""


def documents() -> list[tuple[str, dict[str, Any]]]:
    """File and document, of all files."""
    return [(file.name, document) for file in FILES for document in yaml.safe_load_all(file.read_text())]


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {document["metadata"]["name"]: document for _, document in documents() if document["kind"] == kind}


DEPLOYMENTS = of_kind("Deployment")


def container(deployment: dict[str, Any]) -> dict[str, Any]:
    (only,) = deployment["spec"]["template"]["spec"]["containers"]
    found: dict[str, Any] = only
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_each_manifest_fits_the_schema(version: str) -> None:
    checked = 0
    for file, document in documents():
        if document["apiVersion"] in FOREIGN:
            continue
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            pytest.fail(f"{file}: {error.message}", pytrace=False)
        checked += 1
    assert checked >= 11


def test_what_is_wrong_would_be_seen() -> None:
    wrong = yaml.safe_load((FOLDER / "beat.yaml").read_text().split("---")[0])
    container(wrong)["livenesProbe"] = container(wrong).pop("livenessProbe")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_kustomize_builds_all_of_it() -> None:
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    text = (FOLDER / "kustomization.yaml").read_text()
    for file in FILES:
        named = file.name in listed or f"# - {file.name}" in text
        assert named or file.name in {"kustomization.yaml", "secret.example.yaml"}, file.name
    if (kubectl := shutil.which("kubectl")) is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run([kubectl, "kustomize", str(FOLDER)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    assert {document["kind"] for document in built} >= {"Deployment", "Service", "PodDisruptionBudget", "ConfigMap"}
    for document in built:
        assert document["kind"] == "Namespace" or document["metadata"]["namespace"] == "broker-jobs"
        if document["kind"] == "Deployment":
            assert container(document)["image"] == "registry.example.com/shop/jobs:1"


def test_there_are_two_of_what_must_not_be_missed() -> None:
    assert {name: each["spec"]["replicas"] for name, each in DEPLOYMENTS.items()} == {
        "coordinator": 2,
        "beat": 2,
        "worker": 2,
        "dashboard": 1,
    }
    assert {"coordinator", "beat", "worker"} <= set(of_kind("PodDisruptionBudget"))


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_the_commands_are_those_that_compose_runs(name: str) -> None:
    """Which are executed, by test_compose.py."""
    data = of_kind("ConfigMap")["broker-jobs"]["data"]
    args = [re.sub(r"\$\((\w+)\)", lambda found: data[found[1]], word) for word in container(DEPLOYMENTS[name])["args"]]
    assert args == services()[name]["command"]


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_every_variable_secret_and_port_exists(name: str) -> None:
    known = {PREFIX + field.upper() for field in Settings.model_fields} | {"APP", "FORWARDED_ALLOW_IPS"}
    data, secret = of_kind("ConfigMap")["broker-jobs"]["data"], of_kind("Secret")["broker-jobs"]["stringData"]
    one = container(DEPLOYMENTS[name])
    assert {variable["name"] for variable in one["env"]} | set(data) <= known
    for variable in one["env"]:
        if "valueFrom" in variable:
            assert variable["valueFrom"]["secretKeyRef"]["key"] in secret
    ports = {port["name"]: port["containerPort"] for port in one["ports"]}
    for probe in (one["livenessProbe"], one["readinessProbe"]):
        assert next(iter(probe.values()))["port"] in ports
    assert one["readinessProbe"]["httpGet"]["path"] == "/healthz"
    if "metrics" in ports:
        assert str(ports["metrics"]) == data["BROKER_JOBS_METRICS_PORT"]


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_each_pod_has_as_few_rights_as_the_namespace_asks(name: str) -> None:
    pod = DEPLOYMENTS[name]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert f"USER {pod['securityContext']['runAsUser']}:" in DOCKERFILE
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(DEPLOYMENTS[name])["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_selectors_find_their_pods() -> None:
    pods = {
        name: deployment["spec"]["template"]["metadata"]["labels"].items() for name, deployment in DEPLOYMENTS.items()
    }
    for name, deployment in DEPLOYMENTS.items():
        assert deployment["spec"]["selector"]["matchLabels"].items() <= pods[name]
    for name, budget in of_kind("PodDisruptionBudget").items():
        assert budget["spec"]["selector"]["matchLabels"].items() <= pods[name]
    for name, service in of_kind("Service").items():
        assert service["spec"]["selector"].items() <= pods[name]
        named = {port["name"] for port in container(DEPLOYMENTS[name])["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= named
    (monitor,) = of_kind("PodMonitor").values()
    assert all(monitor["spec"]["selector"]["matchLabels"].items() <= labels for labels in pods.values())


def test_a_stop_waits_longer_than_running_jobs_may_take() -> None:
    seconds = DEPLOYMENTS["worker"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert seconds > Settings.model_fields["shutdown_timeout"].default + 10


@pytest.mark.rabbitmq
def test_keda_asks_for_a_queue_that_rabbitmq_tells_its_user_of(shipped: ShippedBroker) -> None:
    (scaled,) = of_kind("ScaledObject").values()
    (authentication,) = of_kind("TriggerAuthentication").values()
    assert scaled["spec"]["scaleTargetRef"]["name"] in DEPLOYMENTS
    triggers = scaled["spec"]["triggers"]
    assert {each["authenticationRef"]["name"] for each in triggers} == {authentication["metadata"]["name"]}
    (reference,) = authentication["spec"]["secretTargetRef"]
    url = of_kind("Secret")["broker-jobs"]["stringData"][reference["key"]]
    assert (reference["parameter"], url.partition("//")[2].partition(":")[0]) == ("host", shipped.user)
    args = container(DEPLOYMENTS["worker"])["args"]
    asked = [trigger["metadata"] for trigger in triggers]
    assert tuple(each["queueName"] for each in asked) == names.work_queues(args[args.index("-Q") + 1])
    # What its scaler for the protocol "http" asks, and the number it takes.
    paths = [f"/queues/{each['vhostName']}/{quote(each['queueName'], safe='')}" for each in asked]
    eventually(lambda: [shipped.http("GET", path).get("messages_ready") for path in paths] == [0, 0, 0], 20, "numbers")
