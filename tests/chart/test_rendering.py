"""What the chart renders: complete, valid on every supported Kubernetes, and restricted."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from sftjob_operator.api import SFTJob, parse_job
from sftjob_operator.settings import Address, NamespacedName, read_settings
from support.checks.golden import check_golden, load_documents
from support.checks.pod_security import violations
from support.checks.rendering import SCHEMA_VERSIONS, check_published_schema
from support.clients.helm import CHART, NOTES, Helm
from tools.dashboard import DASHBOARD

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(path.name for path in GOLDEN.iterdir())
DEFINITION = Path(__file__).parents[2] / "crds" / "sftjobs.yaml"
CERTIFICATE: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["issuerRef", "secretName"],
    "properties": {
        "secretName": {"type": "string"},
        "dnsNames": {"type": "array", "items": {"type": "string"}},
        "usages": {"type": "array", "items": {"enum": ["server auth", "digital signature"]}},
        "privateKey": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "algorithm": {"enum": ["RSA", "ECDSA", "Ed25519"]},
                "size": {"type": "integer"},
                "rotationPolicy": {"enum": ["Never", "Always"]},
            },
        },
        "issuerRef": {
            "type": "object",
            "additionalProperties": False,
            "required": ["name"],
            "properties": {name: {"type": "string"} for name in ("name", "kind", "group")},
        },
    },
}
"""The part of cert-manager.io/v1 Certificate's spec that a chart may use."""
POD_MONITOR: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["selector", "podMetricsEndpoints"],
    "properties": {
        "selector": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"matchLabels": {"type": "object", "additionalProperties": {"type": "string"}}},
        },
        "podMetricsEndpoints": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "port": {"type": "string"},
                    "path": {"type": "string"},
                    "interval": {"type": "string", "pattern": "^(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?$"},
                },
            },
        },
    },
}
"""The part of monitoring.coreos.com/v1 PodMonitor's spec that a chart may use."""
OF_OTHERS = {"Certificate": CERTIFICATE, "PodMonitor": POD_MONITOR}
"""Kinds that Kubernetes itself does not have."""


def values_of(case: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((GOLDEN / case / "values.yaml").read_text(encoding="utf-8"))
    return loaded


def rendered(helm: Helm, case: str) -> list[dict[str, Any]]:
    """Every object but the definition, which has a test of its own."""
    return [obj for obj in helm.objects(values_of(case)) if obj["kind"] != "CustomResourceDefinition"]


def one(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (obj for obj in objects if obj["kind"] == kind)
    return found


def environment(container: dict[str, Any]) -> dict[str, str]:
    """What the kubelet makes of a container's env, in a Pod named after the path of a field."""
    return {
        item["name"]: item["value"] if "value" in item else item["valueFrom"]["fieldRef"]["fieldPath"]
        for item in container["env"]
    }


@pytest.mark.parametrize("case", CASES)
def test_helm_has_no_complaint(helm: Helm, case: str) -> None:
    assert helm.lint(values_of(case)) == []


@pytest.mark.parametrize("case", CASES)
def test_it_renders_what_it_did(helm: Helm, case: str) -> None:
    check_golden(GOLDEN / case / "out.yaml", rendered(helm, case))


@pytest.mark.parametrize("version", SCHEMA_VERSIONS)
@pytest.mark.parametrize("case", CASES)
def test_every_object_is_valid_on_a_supported_kubernetes(helm: Helm, case: str, version: str) -> None:
    objects = [json.dumps(obj) for obj in helm.objects(values_of(case))]
    assert [told for obj in objects if (told := complaint(obj, version))] == []


@cache
def complaint(text: str, version: str) -> str | None:
    """What the strict schema of a Kubernetes version, or of another project's resource, says against an object."""
    obj = json.loads(text)
    try:
        if obj["kind"] in OF_OTHERS:
            jsonschema.validate(obj["spec"], OF_OTHERS[obj["kind"]])
        else:
            check_published_schema(obj, version)
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
        return str(error)
    return None


def test_the_oldest_supported_kubernetes_is_the_one_that_the_chart_asks_for() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["kubeVersion"] == f">={SCHEMA_VERSIONS[0]}.0-0"


@pytest.mark.parametrize("keep", [True, False])
def test_the_definition_is_the_generated_one(helm: Helm, keep: bool) -> None:
    objects = helm.objects({"crds": {"keep": keep}})
    definition = one(objects, "CustomResourceDefinition")
    metadata = definition.pop("metadata")
    (wanted,) = load_documents(DEFINITION)
    assert metadata["name"] == wanted.pop("metadata")["name"]
    assert metadata["labels"]["app.kubernetes.io/managed-by"] == "Helm"
    assert metadata.get("annotations", {}) == ({"helm.sh/resource-policy": "keep"} if keep else {})
    assert definition == wanted


def test_the_definition_can_be_left_out(helm: Helm) -> None:
    kinds = [obj["kind"] for obj in helm.objects({"crds": {"enabled": False}})]
    assert "CustomResourceDefinition" not in kinds


@pytest.mark.parametrize("case", CASES)
def test_the_operator_meets_the_restricted_pod_security_standard(helm: Helm, case: str) -> None:
    template = one(rendered(helm, case), "Deployment")["spec"]["template"]
    assert violations(template) == []
    (container,) = template["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("case", CASES)
def test_the_operator_takes_its_settings(helm: Helm, case: str) -> None:
    values, deployment = values_of(case), one(rendered(helm, case), "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    settings = read_settings(environment(container))
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    given = values.get("progress", {})
    host = given.get("listenHost", "0.0.0.0").strip("[]")
    assert settings.progress_address == Address(host=host, port=ports["progress"])
    assert settings.liveness_address == Address(host=host, port=ports["health"])
    assert settings.progress_url == f"https://sftjob-operator.sftjob-system.svc:{given.get('port', 8443)}"
    assert settings.namespaces == tuple(values.get("namespaces", ()))
    assert settings.workers == values.get("workers", 16)
    assert settings.gpu_node_label == ("nvidia.com/gpu.present", "true")
    assert settings.progress_interval_seconds == given.get("intervalSeconds", 10)
    metrics = values.get("metrics", {})
    served = Address(host=host, port=ports["metrics"]) if metrics.get("enabled", True) else None
    assert settings.metrics_address == served
    assert settings.metrics_jobs == metrics.get("jobs", 200)
    assert settings.lease == NamespacedName(namespace="sftjob-system", name="sftjob-operator")
    assert settings.pod_name == "metadata.name"
    if "tls" in given:
        (mount,) = (mount for mount in container["volumeMounts"] if mount["name"] == "tls")
        assert settings.progress_tls == Path(mount["mountPath"])
    else:
        assert settings.progress_tls == NamespacedName(namespace="sftjob-system", name="sftjob-operator-progress-tls")


def test_the_pod_monitor_finds_the_port_of_the_operators_pod(helm: Helm) -> None:
    objects = rendered(helm, "scraped-and-shown")
    template = one(objects, "Deployment")["spec"]["template"]
    monitor = one(objects, "PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in [port["name"] for port in template["spec"]["containers"][0]["ports"]]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_the_dashboard_is_the_generated_one_where_grafana_looks_for_it(helm: Helm) -> None:
    (config,) = (obj for obj in rendered(helm, "scraped-and-shown") if obj["kind"] == "ConfigMap")
    assert config["data"] == {"sftjob.json": DASHBOARD.read_text(encoding="utf-8")}
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_without_metrics_nothing_of_them_is_there(helm: Helm) -> None:
    objects = helm.objects({"crds": {"enabled": False}, "metrics": {"enabled": False}})
    assert "metrics" not in json.dumps(objects).lower()


def test_the_certificate_of_cert_manager_is_for_the_name_that_trainers_use(helm: Helm) -> None:
    objects = rendered(helm, "certificate-from-cert-manager")
    (container,) = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    settings = read_settings(environment(container))
    (name,) = one(objects, "Certificate")["spec"]["dnsNames"]
    assert settings.progress_url == f"https://{name}:8443"


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ("sftjob-operator", "sftjob-operator"),
        ("training", "training-sftjob-operator"),
        ("a" * 53, f"{'a' * 37}-sftjob-operator"),
        ("sftjob-operator-" + "b" * 37, "sftjob-operator-" + "b" * 37),
    ],
)
def test_names_follow_the_release_and_stay_short_enough(helm: Helm, release: str, name: str) -> None:
    objects = helm.objects({}, name=release, namespace="sftjob-system")
    assert one(objects, "Service")["metadata"]["name"] == name
    assert all(len(obj["metadata"]["name"]) <= 253 for obj in objects)
    assert len(name) <= 63


def test_two_releases_share_nothing_of_the_cluster(helm: Helm) -> None:
    def names(namespace: str) -> set[tuple[str, str]]:
        objects = helm.objects({"crds": {"enabled": False}}, name="sftjob-operator", namespace=namespace)
        return {(obj["kind"], obj["metadata"]["name"]) for obj in objects if "namespace" not in obj["metadata"]}

    assert names("one")
    assert names("one").isdisjoint(names("two"))


@pytest.mark.parametrize("case", ["defaults", "two-namespaces", "account-and-definition-of-somebody-else"])
def test_the_notes_tell_the_next_command(helm: Helm, case: str) -> None:
    notes = helm.render(values_of(case))[NOTES]
    namespace = next(iter(values_of(case).get("namespaces", ())), None)
    scope = f"--namespace {namespace} " if namespace else ""
    assert "kubectl --namespace sftjob-system rollout status deployment/sftjob-operator" in notes
    assert f"kubectl {scope}apply -f - <<EOF" in notes
    assert ("kubectl apply --server-side -f crds/sftjobs.yaml" in notes) is (case == CASES[0])
    assert ("must already be on the nodes" in notes) is (case != "two-namespaces")


def test_the_job_in_the_notes_is_a_job(helm: Helm) -> None:
    (manifest,) = re.findall(r"<<EOF\n(.*?)\n  EOF", helm.render({})[NOTES], re.DOTALL)
    job = yaml.safe_load(manifest)
    job["metadata"] |= {
        "namespace": "default",
        "uid": "1",
        "generation": 1,
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    assert isinstance(parse_job(job), SFTJob)
