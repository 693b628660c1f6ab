"""What a Pod asks for and what it is allowed: resources, image, grace period, user."""

from typing import Any

import pytest

from sftjob_contract.names import Stage
from sftjob_operator.api import SFTJobStatus
from sftjob_operator.render import pod, pod_name, volume_uri
from support.checks.rendering import REPORTING, render_all
from support.jobs.builders import UID, JobBuilder, a_job

MORE = {"cpu": 8, "memory": "64Gi", "ephemeral_storage": "20Gi"}


def spec_of(job: JobBuilder, stage: Stage = Stage.TRAIN) -> dict[str, Any]:
    return dict(pod(job.build(), stage, 1, REPORTING)["spec"])


def container(job: JobBuilder, stage: Stage = Stage.TRAIN) -> dict[str, Any]:
    (only,) = spec_of(job, stage)["containers"]
    return dict(only)


def with_checkpoints_of(size_bytes: int | None) -> JobBuilder:
    """A job whose Prepare stage told how large a checkpoint will be."""
    counts = ("steps", "stepsPerEpoch", "rows", "trainRows", "evaluationRows", "sequences", "tokens", "trainedTokens")
    plan = {**dict.fromkeys(counts, 1), "checkpointBytes": size_bytes}
    return a_job().with_status(SFTJobStatus.model_validate({"plan": plan}))


def test_gpus_are_asked_for_by_train_alone() -> None:
    job = a_job().resources(gpus=8, gpu_resource_name="example.com/gpu", memory="8Gi", cpu=2)
    assert container(job, Stage.PREPARE)["resources"] == {
        "requests": {"cpu": "2", "memory": "8Gi"},
        "limits": {"memory": "8Gi"},
    }
    assert container(job)["resources"] == {
        "requests": {"cpu": "2", "memory": "8Gi", "example.com/gpu": "8"},
        "limits": {"memory": "8Gi", "example.com/gpu": "8"},
    }
    assert container(a_job().resources(gpus=0))["resources"] == {}


@pytest.mark.parametrize(
    ("prepare", "requests"),
    [
        ({}, {"cpu": "8", "memory": "64Gi", "ephemeral-storage": "20Gi"}),
        ({"cpu": "2"}, {"cpu": "2", "memory": "64Gi", "ephemeral-storage": "20Gi"}),
        ({"memory": "4Gi"}, {"cpu": "8", "memory": "4Gi", "ephemeral-storage": "20Gi"}),
        ({"ephemeralStorage": "1Gi"}, {"cpu": "8", "memory": "64Gi", "ephemeral-storage": "1Gi"}),
    ],
)
def test_prepare_and_publish_ask_for_what_train_does_unless_prepare_has_its_own_and_a_merge_for_trains_memory(
    prepare: dict[str, str], requests: dict[str, str]
) -> None:
    job = a_job().resources(**MORE, gpus=1, prepare=prepare)
    merging = job.lora().output(mergeAdapter=True)
    assert container(job, Stage.PREPARE)["resources"]["requests"] == requests
    assert container(merging, Stage.PREPARE)["resources"]["requests"] == requests
    assert container(job, Stage.PUBLISH)["resources"]["requests"] == requests
    assert container(merging, Stage.PUBLISH)["resources"]["requests"] == {**requests, "memory": "64Gi"}
    assert container(job)["resources"]["requests"] == {
        "cpu": "8",
        "memory": "64Gi",
        "ephemeral-storage": "20Gi",
        "nvidia.com/gpu": "1",
    }


def test_cpu_alone_is_not_limited() -> None:
    resources = container(a_job().resources(**MORE))["resources"]
    assert resources["requests"] == {"cpu": "8", **resources["limits"]}


def test_scratch_space_and_shared_memory_are_bounded() -> None:
    job = a_job().resources(shared_memory="16Gi", ephemeral_storage="20Gi", prepare={"ephemeralStorage": "1Gi"})
    scratch = {
        stage: {volume["name"]: volume["emptyDir"] for volume in spec_of(job, stage)["volumes"] if "emptyDir" in volume}
        for stage in Stage
    }
    assert scratch == {
        Stage.PREPARE: {"tmp": {"sizeLimit": "1Gi"}, "shm": {"medium": "Memory", "sizeLimit": "16Gi"}},
        Stage.TRAIN: {"tmp": {"sizeLimit": "20Gi"}, "shm": {"medium": "Memory", "sizeLimit": "16Gi"}},
        Stage.PUBLISH: {"tmp": {"sizeLimit": "1Gi"}, "shm": {"medium": "Memory", "sizeLimit": "16Gi"}},
    }


def test_the_stage_is_the_only_argument() -> None:
    assert container(a_job())["command"] == ["python", "-m", "sftjob_trainer", "train"]
    assert container(a_job(), Stage.PREPARE)["command"] == ["python", "-m", "sftjob_trainer", "prepare"]


def test_the_image_of_the_job_wins() -> None:
    assert container(a_job())["image"] == REPORTING.trainer_image
    assert container(a_job().set("image", "mine:2"))["image"] == "mine:2"


@pytest.mark.parametrize("stage", Stage)
def test_how_an_image_is_pulled(stage: Stage) -> None:
    job = a_job().set("imagePullPolicy", "Never").set("imagePullSecrets", [{"name": "registry"}])
    assert container(job, stage)["imagePullPolicy"] == "Never"
    assert spec_of(job, stage)["imagePullSecrets"] == [{"name": "registry"}]
    assert "imagePullPolicy" not in container(a_job(), stage)
    assert "imagePullSecrets" not in spec_of(a_job(), stage)


@pytest.mark.parametrize(
    ("size_bytes", "seconds"),
    [
        (None, 120),
        (0, 120),
        (3_000_000_000, 120),
        (3_000_000_001, 121),
        (15_000_000_000, 360),
        (177_000_000_000, 3600),
        (10**13, 3600),
    ],
)
def test_train_gets_the_time_to_save_its_checkpoint(size_bytes: int | None, seconds: int) -> None:
    assert spec_of(with_checkpoints_of(size_bytes))["terminationGracePeriodSeconds"] == seconds


def test_where_nothing_is_saved_stopping_is_quick() -> None:
    large = with_checkpoints_of(10**13)
    assert spec_of(large, Stage.PREPARE)["terminationGracePeriodSeconds"] == 30
    assert spec_of(large.checkpoints(on_termination=False))["terminationGracePeriodSeconds"] == 30


def test_before_anything_is_planned_train_gets_two_minutes() -> None:
    assert spec_of(a_job())["terminationGracePeriodSeconds"] == 120


def test_a_child_belongs_to_its_job_and_does_not_hold_up_the_jobs_deletion() -> None:
    """Some clusters let only those name an owner whose deletion waits who may update its finalizers.

    See https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/, under
    OwnerReferencesPermissionEnforcement. The operator's role has no such right.
    """
    job = a_job().resources(nodes=2).storage(access_modes=["ReadWriteMany"]).build()
    owner = {"apiVersion": "sftjob.dev/v1alpha1", "kind": "SFTJob", "name": "demo", "uid": UID, "controller": True}
    children = render_all(job, REPORTING)
    assert {child["kind"] for child in children} == {"PersistentVolumeClaim", "ConfigMap", "Service", "Pod"}
    assert [child["metadata"]["ownerReferences"] for child in children] == [[owner]] * len(children)


def test_no_pod_gets_a_token_for_the_kubernetes_api() -> None:
    job = a_job().scheduling(service_account_name="trainer")
    for stage in Stage:
        spec = spec_of(job, stage)
        assert spec["automountServiceAccountToken"] is False
        assert spec["serviceAccountName"] == "trainer"
        assert "serviceAccountName" not in spec_of(a_job(), stage)


def test_the_longest_names_are_dns_labels() -> None:
    job = a_job("x" * 48).resources(nodes=64, gpus=8).build()
    assert len(pod_name(job, Stage.TRAIN, 99_999, rank=63)) == 63
    assert len(pod_name(job, Stage.PREPARE, 99_999)) <= 63


def test_a_volume_uri_is_what_another_job_would_write() -> None:
    assert volume_uri(a_job("demo").build(), "output/adapter") == "pvc://demo/output/adapter"
    assert volume_uri(a_job("demo").storage(existing_claim="team").build(), "output") == "pvc://team/demo/output"
