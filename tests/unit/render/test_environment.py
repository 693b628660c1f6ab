"""Variables of a Pod: paths, the user's own, secrets by reference, and how progress is reported."""

from typing import Any

import pytest

from sftjob_contract.names import (
    ENV_HUB_TOKEN,
    ENV_KUBEFLOW_CA,
    ENV_KUBEFLOW_TOKEN,
    ENV_KUBEFLOW_URL,
    ENV_MICRO_BATCH,
    ENV_PROGRESS_CA,
    ENV_PROGRESS_URL,
    ENV_SECRET_VARIABLES,
    ENV_WANDB_API_KEY,
    TOKEN_AUDIENCE,
    Stage,
)
from sftjob_operator.api import SFTJobStatus
from sftjob_operator.render import OWN_VARIABLES, RenderSettings, own_variables, pod
from support.checks.rendering import REPORTING, SILENT
from support.jobs.builders import JobBuilder, a_command, a_job

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


PLAN = {
    **dict.fromkeys(("steps", "stepsPerEpoch", "rows", "trainRows", "evaluationRows"), 1),
    **dict.fromkeys(("sequences", "tokens", "trainedTokens"), 1),
    "gradientCheckpointing": True,
}


FROM_SECRET = {"name": "DB_URL", "valueFrom": {"secretKeyRef": {"name": "db", "key": "url"}}}


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


def adjusted(job: JobBuilder, *sizes: int) -> JobBuilder:
    """A job whose attempts from the second on each take a smaller micro-batch."""
    entries = [
        {
            "attempt": attempt,
            "reason": "GpuOutOfMemory",
            "perDeviceBatchSize": {"from": 8, "to": size},
            "gradientAccumulationSteps": {"from": 1, "to": 8 // size},
            "message": "Less.",
        }
        for attempt, size in enumerate(sizes, start=2)
    ]
    return job.with_status(
        SFTJobStatus.model_validate({"adjustments": entries, "plan": {**PLAN, "publishStage": True}})
    )


def test_every_variable_of_the_operator_is_reserved_and_every_reserved_one_is_set() -> None:
    names = set(variables(a_command()))
    template = {"configMapKeyRef": {"name": "templates", "key": "support.jinja"}}
    everything = adjusted(EVERYTHING, 4).set("env", [FROM_SECRET]).set("model.chatTemplate", template)
    for stage in Stage:
        (only,) = pod(everything.build(), stage, 2, REPORTING)["spec"]["containers"]
        names |= {entry["name"] for entry in only["env"]}
    assert names - {"OMP_NUM_THREADS", FROM_SECRET["name"]} == OWN_VARIABLES


@pytest.mark.parametrize(("attempt", "size"), [(1, None), (2, "4"), (3, "2"), (9, "2")])
def test_an_attempt_takes_the_micro_batch_that_was_adjusted_for_it(attempt: int, size: str | None) -> None:
    (only,) = pod(adjusted(a_job(), 4, 2).build(), Stage.TRAIN, attempt, REPORTING)["spec"]["containers"]
    told = {entry["name"]: entry.get("value") for entry in only["env"]}
    assert told.get(ENV_MICRO_BATCH) == size


@pytest.mark.parametrize("stage", Stage)
def test_the_users_variables_come_first_and_leave_the_operators_alone(stage: Stage) -> None:
    mine = {"name": "NCCL_DEBUG", "value": "INFO"}
    job = a_job().set("env", [mine, FROM_SECRET, *({"name": name, "value": "mine"} for name in sorted(OWN_VARIABLES))])
    entries = container(job, stage)["env"]
    assert entries[:2] == [mine, FROM_SECRET]
    assert entries[2:-1] == container(a_job(), stage)["env"]


def test_the_trainer_is_told_which_variables_come_from_secrets() -> None:
    plain = {"name": "NCCL_DEBUG", "value": "INFO"}
    another = {"name": "OTHER", "valueFrom": {"secretKeyRef": {"name": "db", "key": "other"}}}
    assert variables(a_job().set("env", [FROM_SECRET, plain, another]))[ENV_SECRET_VARIABLES] == "DB_URL,OTHER"
    assert ENV_SECRET_VARIABLES not in variables(a_job().set("env", [plain]))


def test_an_image_of_ones_own_is_told_places_and_where_to_report_and_nothing_of_a_run_config() -> None:
    theirs = variables(a_job().resources(gpus=0))
    told = variables(a_command().resources(gpus=0))
    assert set(theirs) - set(told) == {
        *("SFTJOB_RUN_CONFIG", "SFTJOB_CONFIG_HASH", "SFTJOB_CLAIMS", "SFTJOB_VOLUME_URI", "HF_HUB_OFFLINE"),
        *("SFTJOB_PROGRESS_URL", "SFTJOB_PROGRESS_CA", "SFTJOB_PROGRESS_TOKEN"),
    }
    assert {name: value for name, value in told.items() if name not in theirs} == {
        ENV_KUBEFLOW_URL: f"{REPORTING.progress_url}/v1/namespaces/team/sftjobs/demo/trainer-status",
        ENV_KUBEFLOW_CA: theirs[ENV_PROGRESS_CA],
        ENV_KUBEFLOW_TOKEN: theirs["SFTJOB_PROGRESS_TOKEN"],
    }


@pytest.mark.parametrize("name", ["HF_TOKEN", "WANDB_API_KEY", "HF_HUB_OFFLINE"])
def test_an_image_of_ones_own_gets_its_keys_from_the_users_variables(name: str) -> None:
    mine = {"name": name, "valueFrom": {"secretKeyRef": {"name": "keys", "key": "k"}}}
    assert container(a_command().set("env", [mine]))["env"][0] == mine


def test_an_image_of_ones_own_can_not_be_told_other_places() -> None:
    reserved = own_variables(a_command().build())
    job = a_command().set("env", [{"name": name, "value": "mine"} for name in sorted(reserved)])
    assert container(job)["env"] == container(a_command())["env"]


@pytest.mark.parametrize("settings", [REPORTING, SILENT], ids=["reporting", "silent"])
def test_only_the_pod_that_leads_reports_for_an_image_of_ones_own(settings: RenderSettings) -> None:
    job = a_command().resources(nodes=2).storage(access_modes=["ReadWriteMany"])
    told = [ENV_KUBEFLOW_URL in variables(job, settings=settings, rank=rank) for rank in (0, 1)]
    assert told == [settings is REPORTING, False]


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
    assert secrets(job, Stage.TRAIN) == ["out", "mlflow"]  # of a trainer that knows no stage publish
    published = job.with_status(SFTJobStatus.model_validate({"plan": {**PLAN, "publishStage": True}}))
    assert (secrets(published, Stage.TRAIN), secrets(published, Stage.PUBLISH)) == (["mlflow"], ["out"])


def test_a_secret_that_serves_twice_is_named_once() -> None:
    shared = {"name": "store"}
    job = (
        a_job()
        .model("s3://models/base", secret_ref=shared)
        .dataset("s3://data/rows", secret_ref=shared)
        .set("output.upload", {"uri": "s3://out/x", "secretRef": shared})
        .set("tracking.mlflow", {"secretRef": shared})
    )
    assert [secrets(job, stage) for stage in Stage] == [["store"]] * 3


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


@pytest.mark.parametrize(
    ("variable", "rendered_as"),
    [
        ({"name": "A"}, {"name": "A", "value": ""}),
        ({"name": "A", "value": None, "valueFrom": None}, {"name": "A", "value": ""}),
        ({**FROM_SECRET, "value": ""}, FROM_SECRET),
    ],
    ids=["no value", "null", "a source beside an empty value"],
)
def test_a_variable_without_a_value_is_rendered_as_kubernetes_takes_it(
    variable: dict[str, Any], rendered_as: dict[str, Any]
) -> None:
    assert container(a_job().set("env", [variable]))["env"][0] == rendered_as
