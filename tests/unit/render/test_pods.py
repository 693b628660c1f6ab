"""What a Pod asks for and what it is allowed: schema, security, secrets, reporting."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from sftjob_contract.names import ENV_HUB_TOKEN, ENV_PROGRESS_CA, ENV_PROGRESS_URL, TOKEN_AUDIENCE, Stage
from sftjob_operator.render import RenderSettings, pod, volume_uri
from support.builders import JobBuilder, a_job
from support.golden import load_documents
from support.pod_security import violations

GOLDEN = Path(__file__).parent / "golden"
RENDERED = [
    pytest.param(document, id=f"{path.parent.name}-{document['metadata']['name']}")
    for path in sorted(GOLDEN.glob("*/out.yaml"))
    for document in load_documents(path)
]
SETTINGS = RenderSettings(trainer_image="trainer:1", progress_url="https://operator:8443/", progress_ca="PEM")


def rendered(job: JobBuilder, stage: Stage = Stage.TRAIN, settings: RenderSettings = SETTINGS) -> dict[str, Any]:
    return pod(job.build(), stage, 1, settings)


def container(job: JobBuilder, stage: Stage = Stage.TRAIN, settings: RenderSettings = SETTINGS) -> dict[str, Any]:
    (only,) = rendered(job, stage, settings)["spec"]["containers"]
    return dict(only)


def environment(job: JobBuilder, stage: Stage = Stage.TRAIN, settings: RenderSettings = SETTINGS) -> dict[str, Any]:
    return {entry["name"]: entry.get("value") for entry in container(job, stage, settings)["env"]}


@pytest.mark.parametrize("version", ["1.32", "1.37"])
@pytest.mark.parametrize("document", RENDERED)
def test_every_object_fits_the_published_schema(document: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("document", [case for case in RENDERED if case.values[0]["kind"] == "Pod"])
def test_every_pod_meets_the_restricted_standard(document: dict[str, Any]) -> None:
    assert violations(document) == []


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "root": (lambda spec: spec["securityContext"].update(runAsUser=0), "runAsUser must not be 0"),
    "maybe root": (lambda spec: spec["securityContext"].pop("runAsNonRoot"), "runAsNonRoot must be true"),
    "no seccomp": (lambda spec: spec["securityContext"].pop("seccompProfile"), "seccompProfile.type"),
    "host path": (lambda spec: spec["volumes"].append({"name": "x", "hostPath": {}}), "must not be a hostPath"),
    "host network": (lambda spec: spec.update(hostNetwork=True), "hostNetwork"),
    "a capability": (
        lambda spec: spec["containers"][0]["securityContext"]["capabilities"].update(add=["SYS_ADMIN"]),
        "capabilities.add",
    ),
    "capabilities kept": (
        lambda spec: spec["containers"][0]["securityContext"].pop("capabilities"),
        "capabilities.drop must hold ALL",
    ),
    "escalation": (
        lambda spec: spec["containers"][0]["securityContext"].pop("allowPrivilegeEscalation"),
        "allowPrivilegeEscalation must be false",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_the_security_check_itself_sees_a_broken_pod(case: str) -> None:
    break_it, complaint = BROKEN[case]
    broken = copy.deepcopy(rendered(a_job()))
    break_it(broken["spec"])
    assert any(complaint in line for line in violations(broken))


def test_gpus_are_asked_for_by_train_alone() -> None:
    job = a_job().resources(gpus=1, gpu_resource_name="example.com/gpu", memory="8Gi", cpu=2)
    assert container(job, Stage.PREPARE)["resources"] == {
        "requests": {"cpu": "2", "memory": "8Gi"},
        "limits": {"memory": "8Gi"},
    }
    assert container(job)["resources"] == {
        "requests": {"cpu": "2", "memory": "8Gi", "example.com/gpu": "1"},
        "limits": {"memory": "8Gi", "example.com/gpu": "1"},
    }
    assert container(a_job().resources(gpus=0))["resources"] == {}


def test_the_stage_is_the_only_argument() -> None:
    assert container(a_job())["command"] == ["python", "-m", "sftjob_trainer", "train"]
    assert container(a_job(), Stage.PREPARE)["command"] == ["python", "-m", "sftjob_trainer", "prepare"]


def test_the_hub_token_is_a_reference_and_reaches_prepare_alone() -> None:
    reference = {"name": "hub", "key": "token"}
    for job in (
        a_job().model("hf://a/b", token_secret_ref=reference),
        a_job().dataset("hf://a/b/c.jsonl", token_secret_ref=reference),
    ):
        (entry,) = (e for e in container(job, Stage.PREPARE)["env"] if e["name"] == ENV_HUB_TOKEN)
        assert entry == {"name": ENV_HUB_TOKEN, "valueFrom": {"secretKeyRef": reference}}
        assert ENV_HUB_TOKEN not in environment(job)
    assert ENV_HUB_TOKEN not in environment(a_job(), Stage.PREPARE)


def test_training_is_offline_and_prepare_is_not() -> None:
    assert environment(a_job())["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in environment(a_job(), Stage.PREPARE)


def test_only_train_reports_with_a_token_for_the_endpoint_alone() -> None:
    url = "https://operator:8443/v1/namespaces/team/sftjobs/demo/progress"
    assert environment(a_job())[ENV_PROGRESS_URL] == url
    assert ENV_PROGRESS_URL not in environment(a_job(), Stage.PREPARE)
    (volume,) = (v for v in rendered(a_job())["spec"]["volumes"] if "projected" in v)
    (source,) = volume["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == TOKEN_AUDIENCE
    assert not any("projected" in v for v in rendered(a_job(), Stage.PREPARE)["spec"]["volumes"])


def test_without_an_endpoint_nothing_is_reported_and_no_token_is_mounted() -> None:
    silent = RenderSettings(trainer_image="trainer:1", progress_url=None, progress_ca=None)
    assert not any(name.startswith("SFTJOB_PROGRESS") for name in environment(a_job(), settings=silent))
    assert not any("projected" in v for v in rendered(a_job(), settings=silent)["spec"]["volumes"])


def test_an_endpoint_with_a_public_certificate_needs_no_ca() -> None:
    public = RenderSettings(trainer_image="trainer:1", progress_url="https://sftjob.example.com", progress_ca=None)
    assert ENV_PROGRESS_CA not in environment(a_job(), settings=public)
    assert ENV_PROGRESS_URL in environment(a_job(), settings=public)


@pytest.mark.parametrize(
    ("job", "prepare", "train"),
    [
        (a_job(), [], []),
        (a_job().model("pvc://models/m").dataset("pvc://data/t.jsonl"), ["models", "data"], ["models"]),
        (a_job().model("pvc://same/m").dataset("pvc://same/t.jsonl"), ["same"], ["same"]),
        (a_job("demo").dataset("pvc://demo/t.jsonl"), [], []),
        (
            a_job().dataset("/d", evaluation={"source": "pvc://other.claim/e"}),
            ["other.claim"],
            [],
        ),
    ],
)
def test_foreign_claims_are_mounted_once_and_read_only(job: JobBuilder, prepare: list[str], train: list[str]) -> None:
    for stage, expected in ((Stage.PREPARE, prepare), (Stage.TRAIN, train)):
        claims = [m for m in container(job, stage)["volumeMounts"] if m["mountPath"].startswith("/mnt/claims/")]
        assert [m["mountPath"].removeprefix("/mnt/claims/") for m in claims] == expected
        assert all(m["readOnly"] for m in claims)


def test_every_volume_is_mounted_and_every_mount_has_a_volume() -> None:
    job = a_job().model("pvc://models/m").dataset("pvc://data/t.jsonl")
    for stage in Stage:
        spec = rendered(job, stage)["spec"]
        assert [v["name"] for v in spec["volumes"]] == [m["name"] for m in spec["containers"][0]["volumeMounts"]]


def test_every_path_in_the_environment_lies_below_a_mount() -> None:
    mounts = tuple(m["mountPath"] for m in container(a_job())["volumeMounts"])
    elsewhere = {
        name
        for name, value in environment(a_job()).items()
        if value and value.startswith("/") and not value.startswith(mounts)
    }
    assert elsewhere == {"SFTJOB_CLAIMS", "SFTJOB_TERMINATION_LOG"}  # mounted per claim; the kubelet's own


def test_the_image_of_the_job_wins() -> None:
    assert container(a_job())["image"] == "trainer:1"
    assert container(a_job().set("image", "mine:2"))["image"] == "mine:2"


def test_a_volume_uri_is_what_another_job_would_write() -> None:
    assert volume_uri(a_job("demo").build(), "output/adapter") == "pvc://demo/output/adapter"
