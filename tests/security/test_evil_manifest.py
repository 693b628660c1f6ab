"""What whoever may create SFTJobs reaches with one: Pods of the restricted kind in the same namespace, and no more."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings

from sftjob_contract.layout import ClaimPath
from sftjob_contract.names import TOKEN_AUDIENCE, Stage
from sftjob_operator.api import InvalidJobError, SFTJob, parse_job
from sftjob_operator.render import RenderSettings, pods
from sftjob_operator.render.environment import OWN_VARIABLES
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.sources.resolve import local_path
from support.checks.pod_security import violations
from support.jobs.builders import a_job
from support.jobs.manifests import DEFINITION
from support.jobs.strategies import valid_jobs
from support.trainer.preparing import environment
from support.trainer.tiny import run_config

SETTINGS = RenderSettings(trainer_image="trainer:1", progress_url="https://operator:8443", progress_ca="CA")
VOLUMES = {"persistentVolumeClaim", "configMap", "emptyDir", "projected"}
SMUGGLED: dict[str, Any] = {
    "template": {"spec": {"hostNetwork": True}},
    "podTemplate": {"spec": {"containers": [{"name": "x", "securityContext": {"privileged": True}}]}},
    "containers": [{"name": "x", "image": "evil"}],
    "initContainers": [{"name": "x", "image": "evil"}],
    "volumes": [{"name": "host", "hostPath": {"path": "/"}}, {"name": "s", "secret": {"secretName": "of-others"}}],
    "volumeMounts": [{"name": "host", "mountPath": "/host"}],
    "securityContext": {"privileged": True, "runAsUser": 0},
    "serviceAccountName": "cluster-admin",
    "automountServiceAccountToken": True,
    "hostNetwork": True,
    "hostPID": True,
    "nodeName": "control-plane",
    "namespace": "kube-system",
}


def rendered(job: SFTJob) -> list[dict[str, Any]]:
    stages = Stage if job.spec.command is None else (Stage.TRAIN,)
    return [pod for stage in stages for pod in pods(job, stage, 1, SETTINGS)]


def schema() -> dict[str, Any]:
    definition = yaml.safe_load(DEFINITION.read_text(encoding="utf-8"))
    found: dict[str, Any] = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return found


def nodes(node: Any, path: str = "spec") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema below `node`, with its path."""
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            yield from nodes(node[key], f"{path}[]")


# Pods


@given(job=valid_jobs())
@hypothesis_settings(max_examples=50)
def test_whatever_is_asked_for_pods_are_restricted_and_have_no_rights(job: SFTJob) -> None:
    for pod in rendered(job):
        spec = pod["spec"]
        assert violations(pod) == []
        assert spec["automountServiceAccountToken"] is False
        assert audiences(spec) <= {TOKEN_AUDIENCE}, "no token that an API server takes"
        assert {kind for volume in spec["volumes"] for kind in volume if kind != "name"} <= VOLUMES
        assert pod["metadata"]["namespace"] == job.metadata.namespace


def audiences(spec: dict[str, Any]) -> set[str | None]:
    """Whom the ServiceAccount tokens in a Pod are for; None for one that is for the API server."""
    projected = [source for volume in spec["volumes"] for source in volume.get("projected", {}).get("sources", ())]
    assert {kind for source in projected for kind in source} <= {"serviceAccountToken", "configMap"}
    tokens = [source["serviceAccountToken"] for source in projected if "serviceAccountToken" in source]
    return {token.get("audience") for token in tokens}


@pytest.mark.parametrize("field", SMUGGLED)
def test_parts_of_a_pod_can_not_be_smuggled_in(field: str) -> None:
    for place in (field, f"resources.{field}", f"storage.{field}", f"tracking.{field}"):
        with pytest.raises(
            InvalidJobError, match=rf"spec\.{place} is a field that this version of the operator does not know"
        ):
            a_job().set(place, SMUGGLED[field]).build()


def test_no_field_takes_a_part_of_a_pod() -> None:
    names = {path.rpartition(".")[2] for path, _ in nodes(schema())}
    known = {"template", "serviceAccountName"}  # of rows, and the account whose rights elsewhere the job needs
    assert names & {*SMUGGLED, "hostPath", "subPath", "lifecycle", "ports", "capabilities"} == known


def test_a_service_account_gives_no_rights_on_the_api_server() -> None:
    for pod in rendered(a_job().scheduling(service_account_name="powerful").build()):
        assert pod["spec"]["serviceAccountName"] == "powerful"
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert audiences(pod["spec"]) <= {TOKEN_AUDIENCE}


def test_the_operators_own_variables_can_not_be_changed() -> None:
    mine = [{"name": name, "value": "evil"} for name in sorted(OWN_VARIABLES)]
    plain, evil = rendered(a_job().build()), rendered(a_job().set("env", mine).build())
    assert evil == plain


@pytest.mark.parametrize("name", ["PYTHONPATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONSTARTUP"])
def test_variables_that_bring_code_reach_the_jobs_own_pod_only(name: str) -> None:
    """Whoever may create jobs may name an image, so that code in a Pod is no more than they may have anyway."""
    for pod in rendered(a_job().set("env", [{"name": name, "value": "/evil"}]).build()):
        (container,) = pod["spec"]["containers"]
        assert {"name": name, "value": "/evil"} in container["env"]
        assert violations(pod) == []
        assert pod["spec"]["automountServiceAccountToken"] is False


# Secrets


def test_secrets_and_config_maps_are_of_the_jobs_own_namespace() -> None:
    references = {path: set(node["properties"]) for path, node in nodes(schema()) if path.endswith("Ref")}
    assert len(references) > 5
    assert set().union(*references.values()) <= {"name", "key", "optional"}


def test_no_secret_is_mounted_and_none_is_copied_into_an_object() -> None:
    job = a_job().model("s3://bucket/model", secret_ref={"name": "keys"}).build()
    for pod in rendered(job):
        assert not any("secret" in volume for volume in pod["spec"]["volumes"])
    assert rendered(job)[0]["spec"]["containers"][0]["envFrom"] == [{"secretRef": {"name": "keys"}}]


# Places


CLIMBING = ["pvc://data/../other", "pvc://data/a/../../x", "pvc://data/..", "pvc:///x", "pvc://"]


@pytest.mark.parametrize("source", CLIMBING)
def test_no_path_climbs_out_of_its_claim(source: str, tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=r"must be pvc://CLAIM/PATH without '\.\.'"):
        ClaimPath.parse(source)
    with pytest.raises(ValueError, match=r"model"):
        parse_job(a_job().model(source).body())
    config = run_config(model=source, dataset="unused")
    with pytest.raises(StageError, match=r"without '\.\.'"):
        local_path(source, config, environment(tmp_path, claims=tmp_path))


def test_no_name_of_a_claim_leads_elsewhere() -> None:
    claims = {path: node for path, node in nodes(schema()) if path.endswith("Claim")}
    assert set(claims) == {"spec.storage.existingClaim", "spec.storage.sharedCacheClaim"}
    for node in claims.values():
        assert "self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')" in str(node["x-kubernetes-validations"])


# Size


def test_every_text_list_and_map_is_bounded() -> None:
    unbounded = []
    for path, node in nodes(schema()):
        kind = node.get("type")
        if kind == "string" and not {"maxLength", "enum"} & set(node):
            unbounded.append(path)
        if kind == "array" and "maxItems" not in node and not node["items"].get("enum"):
            unbounded.append(path)
        if kind == "object" and "additionalProperties" in node and "maxProperties" not in node:
            unbounded.append(path)
    assert unbounded == []
