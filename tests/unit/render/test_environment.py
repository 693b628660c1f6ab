"""Variables of a Pod: paths, the user's own, secrets by reference, and how progress is reported."""

from typing import Any

import pytest

from sftjob_contract.names import (
    ENV_HUB_TOKEN,
    ENV_PROGRESS_CA,
    ENV_PROGRESS_URL,
    ENV_WANDB_API_KEY,
    TOKEN_AUDIENCE,
    Stage,
)
from sftjob_operator.render import OWN_VARIABLES, RenderSettings, pod
from support.builders import JobBuilder, a_job
from support.rendering import REPORTING, SILENT

TOKEN = {"name": "hub", "key": "token"}
PUSH = {"repository": "acme/tuned", "tokenSecretRef": {"name": "writer", "key": "t"}}
EVERYTHING = (
    a_job()
    .model("hf://a/b", token_secret_ref=TOKEN)
    .set("output.hub", PUSH)
    .set("tracking.wandb", {"project": "p", "apiKeySecretRef": {"name": "wandb", "key": "k"}})
    .storage(access_modes=["ReadWriteMany"])
    .resources(nodes=2, cpu=4)
)


def rendered(
    job: JobBuilder, stage: Stage = Stage.TRAIN, settings: RenderSettings = REPORTING, rank: int = 0
) -> dict[str, Any]:
    return pod(job.build(), stage, 1, settings, rank)


def container(
    job: JobBuilder, stage: Stage = Stage.TRAIN, settings: RenderSettings = REPORTING, rank: int = 0
) -> dict[str, Any]:
    (only,) = rendered(job, stage, settings, rank)["spec"]["containers"]
    return dict(only)


def variables(
    job: JobBuilder, stage: Stage = Stage.TRAIN, settings: RenderSettings = REPORTING, rank: int = 0
) -> dict[str, Any]:
    return {entry["name"]: entry.get("value") for entry in container(job, stage, settings, rank)["env"]}


def reference(job: JobBuilder, name: str, stage: Stage = Stage.TRAIN) -> Any:
    """The Secret and key that a variable comes from; None where the Pod does not have it."""
    return next((e["valueFrom"]["secretKeyRef"] for e in container(job, stage)["env"] if e["name"] == name), None)


def secrets(job: JobBuilder, stage: Stage, rank: int = 0) -> list[str]:
    return [source["secretRef"]["name"] for source in container(job, stage, rank=rank).get("envFrom", [])]


def test_every_variable_of_the_operator_is_reserved_and_every_reserved_one_is_set() -> None:
    job, names = EVERYTHING, set()
    for stage in Stage:
        names |= set(variables(job, stage))
    assert names - {"OMP_NUM_THREADS"} == OWN_VARIABLES


@pytest.mark.parametrize("stage", Stage)
def test_the_users_variables_come_first_and_leave_the_operators_alone(stage: Stage) -> None:
    mine = {"name": "NCCL_DEBUG", "value": "INFO"}
    secret = {"name": "DB_URL", "valueFrom": {"secretKeyRef": {"name": "db", "key": "url"}}}
    job = a_job().set("env", [mine, secret, *({"name": name, "value": "mine"} for name in sorted(OWN_VARIABLES))])
    entries = container(job, stage)["env"]
    assert entries[:2] == [mine, secret]
    assert entries[2:] == container(a_job(), stage)["env"]


def test_a_user_may_say_how_many_threads_there_are() -> None:
    job = a_job().resources(cpu=8)
    asked = {"name": "OMP_NUM_THREADS", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu"}}}
    said = {"name": "OMP_NUM_THREADS", "value": "2"}
    assert asked in container(job)["env"]
    told = container(job.set("env", [said]))["env"]
    assert [entry for entry in told if entry["name"] == "OMP_NUM_THREADS"] == [said]
    assert "OMP_NUM_THREADS" not in variables(a_job())


def test_prepare_counts_threads_by_its_own_cpus() -> None:
    job = a_job().resources(prepare={"cpu": 2})
    assert "OMP_NUM_THREADS" in variables(job, Stage.PREPARE)
    assert "OMP_NUM_THREADS" not in variables(job)


def test_only_a_pod_that_asks_for_gpus_sees_some() -> None:
    assert variables(a_job(), Stage.PREPARE)["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert variables(a_job().resources(gpus=0))["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert "NVIDIA_VISIBLE_DEVICES" not in variables(a_job())


def test_training_is_offline_and_prepare_is_not() -> None:
    assert variables(a_job())["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in variables(a_job(), Stage.PREPARE)


def test_the_token_to_read_from_the_hub_is_a_reference_and_reaches_prepare_alone() -> None:
    for job in (
        a_job().model("hf://a/b", token_secret_ref=TOKEN),
        a_job().dataset("hf://a/b/c.jsonl", token_secret_ref=TOKEN),
    ):
        assert reference(job, ENV_HUB_TOKEN, Stage.PREPARE) == TOKEN
        assert ENV_HUB_TOKEN not in variables(job)
    assert ENV_HUB_TOKEN not in variables(a_job(), Stage.PREPARE)


def test_the_token_to_write_to_the_hub_reaches_train_alone() -> None:
    job = a_job().set("output.hub", PUSH)
    assert reference(job, ENV_HUB_TOKEN) == {"name": "writer", "key": "t"}
    assert ENV_HUB_TOKEN not in variables(job, Stage.PREPARE)


def test_each_stage_has_the_hub_token_that_is_meant_for_it() -> None:
    assert reference(EVERYTHING, ENV_HUB_TOKEN, Stage.PREPARE) == TOKEN
    assert reference(EVERYTHING, ENV_HUB_TOKEN) == {"name": "writer", "key": "t"}


def test_the_key_of_weights_and_biases_reaches_train_alone() -> None:
    job = a_job().set("tracking.wandb", {"project": "p", "apiKeySecretRef": {"name": "wandb", "key": "k"}})
    assert reference(job, ENV_WANDB_API_KEY) == {"name": "wandb", "key": "k"}
    assert ENV_WANDB_API_KEY not in variables(job, Stage.PREPARE)
    assert ENV_WANDB_API_KEY not in variables(a_job().set("tracking.wandb", {"project": "p"}))


def test_secrets_of_stores_and_trackers_reach_the_stage_that_needs_them() -> None:
    job = (
        a_job()
        .model("s3://models/base", secret_ref={"name": "models"})
        .dataset("s3://data/rows", secret_ref={"name": "data"})
        .set("output.upload", {"uri": "s3://out/x", "secretRef": {"name": "out"}})
        .set("tracking.mlflow", {"secretRef": {"name": "mlflow"}})
    )
    assert secrets(job, Stage.PREPARE) == ["models", "data"]
    assert secrets(job, Stage.TRAIN) == ["out", "mlflow"]


def test_a_secret_that_serves_twice_is_named_once() -> None:
    shared = {"name": "store"}
    job = (
        a_job()
        .model("s3://models/base", secret_ref=shared)
        .dataset("s3://data/rows", secret_ref=shared)
        .set("output.upload", {"uri": "s3://out/x", "secretRef": shared})
        .set("tracking.mlflow", {"secretRef": shared})
    )
    assert [secrets(job, stage) for stage in Stage] == [["store"], ["store"]]


def test_without_secrets_there_is_no_such_list() -> None:
    job = a_job().set("output.upload", {"uri": "s3://out/x"}).set("tracking.mlflow", {})
    assert all("envFrom" not in container(job, stage) for stage in Stage)


def test_of_several_train_pods_only_the_first_gets_secrets() -> None:
    job = EVERYTHING.set("output.upload", {"uri": "s3://out/x", "secretRef": {"name": "out"}})
    assert secrets(job, Stage.TRAIN, rank=0) == ["out"]
    assert secrets(job, Stage.TRAIN, rank=1) == []
    assert {ENV_HUB_TOKEN, ENV_WANDB_API_KEY} & set(variables(job, rank=1)) == set()


def test_only_train_reports_with_a_token_for_the_endpoint_alone() -> None:
    url = f"{REPORTING.progress_url}/v1/namespaces/team/sftjobs/demo/progress"
    assert variables(a_job())[ENV_PROGRESS_URL] == url
    assert ENV_PROGRESS_URL not in variables(a_job(), Stage.PREPARE)
    (volume,) = (v for v in rendered(a_job())["spec"]["volumes"] if "projected" in v)
    (source,) = volume["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == TOKEN_AUDIENCE
    assert not any("projected" in v for v in rendered(a_job(), Stage.PREPARE)["spec"]["volumes"])


def test_without_an_endpoint_nothing_is_reported_and_no_token_is_mounted() -> None:
    assert not any(name.startswith("SFTJOB_PROGRESS") for name in variables(a_job(), settings=SILENT))
    assert not any("projected" in v for v in rendered(a_job(), settings=SILENT)["spec"]["volumes"])


def test_an_endpoint_with_a_public_certificate_needs_no_ca() -> None:
    public = RenderSettings(trainer_image="trainer:1", progress_url="https://sftjob.example.com/", progress_ca=None)
    assert ENV_PROGRESS_CA not in variables(a_job(), settings=public)
    assert variables(a_job(), settings=public)[ENV_PROGRESS_URL].startswith("https://sftjob.example.com/v1/")
