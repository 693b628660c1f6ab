"""What of a job can be changed after its creation: three fields, and nothing else."""

import json
from typing import Any

import pytest

from sftjob_contract.names import API_VERSION
from sftjob_operator.api.crd import resource_schema
from support.clients.http_api import MERGE, HttpApi
from support.clients.kubectl import Kubectl
from support.jobs.builders import a_command
from support.jobs.manifests import IMMUTABLE, load_manifest

NAMESPACE = "immutable"
JOBS = f"/apis/{API_VERSION}/namespaces/{NAMESPACE}/sftjobs"
BEFORE = IMMUTABLE / "before.yaml"
CAN_NOT_CHANGE = "is immutable; create a new SFTJob under another name instead"
CHANGEABLE = {"suspend": (True, False), "deadlineSeconds": (3600, 60), "ttlSecondsAfterFinished": (60, 0)}
FIXED: dict[str, Any] = {
    "model": {"source": "hf://Qwen/Qwen2.5-1.5B"},
    "dataset": {"evaluation": {"fraction": 0.1}},
    "method": {"lora": {"rank": 8}},
    "training": {"epochs": 2},
    "evaluation": {"everySteps": 10},
    "checkpoints": {"keep": 4},
    "output": {"mergeAdapter": True},
    "tracking": {"tensorboard": True},
    "storage": {"size": "60Gi"},
    "resources": {"gpus": 2},
    "scheduling": {"queueName": "team-a"},
    "failurePolicy": {"maxRetries": 4},
    "image": "trainer:2",
    "imagePullPolicy": "Always",
    "imagePullSecrets": [{"name": "other"}],
    "env": [{"name": "NCCL_DEBUG", "value": "WARN"}],
    "podMetadata": {"labels": {"team": "other"}},
}
SMALL_CHANGES: dict[str, dict[str, Any]] = {
    "an option of extra": {"training": {"extra": {"adam_beta2": 0.99}}},
    "the type of an option of extra": {"training": {"extra": {"dataloader_num_workers": True}}},
    "an option deep in extra": {"method": {"lora": {"extra": {"rank_pattern": {"q_proj": 4}}}}},
    "one more option of extra": {"training": {"extra": {"tf32": True}}},
    "one option of extra less": {"training": {"extra": {"adam_beta2": None}}},
    "no image any more": {"image": None},
    "no variables any more": {"env": None},
    "one variable less": {"env": [{"name": "NCCL_DEBUG", "value": "INFO"}]},
}
REFUSED = [*((field, {field: value}) for field, value in FIXED.items()), *SMALL_CHANGES.items()]


@pytest.fixture(autouse=True, scope="module")
def jobs(kubectl: Kubectl) -> None:
    """A recipe and a command of an image of one's own."""
    kubectl("create", "namespace", NAMESPACE)
    kubectl("apply", "-n", NAMESPACE, "-f", str(BEFORE))
    kubectl("apply", "-f", "-", text=json.dumps(a_command(name="own", namespace=NAMESPACE).manifest()))


async def stored(api: HttpApi) -> dict[str, Any]:
    """The job as the server has it."""
    job: dict[str, Any] = await api.ok("GET", f"{JOBS}/fixed")
    return job


async def patch(api: HttpApi, spec: dict[str, Any], name: str = "fixed") -> tuple[int, str]:
    """Status and message of the answer to a change of the spec."""
    answer = await api("PATCH", f"{JOBS}/{name}", {"spec": spec}, MERGE)
    return answer.status, answer.body.get("message", "")


def test_every_field_of_the_spec_is_looked_at() -> None:
    assert set(FIXED) | set(CHANGEABLE) | {"command"} == set(resource_schema()["properties"]["spec"]["properties"])


@pytest.mark.parametrize(("name", "change"), REFUSED, ids=[name for name, _ in REFUSED])
async def test_a_change_is_refused_and_the_field_is_named(api: HttpApi, name: str, change: dict[str, Any]) -> None:
    (field,) = change
    optional = f'spec: Invalid value: "object": {field} {CAN_NOT_CHANGE}'
    with_a_default = f'spec.{field}: Invalid value: "object": {CAN_NOT_CHANGE}'
    status, message = await patch(api, change)
    assert status == 422
    assert message in {f'SFTJob.sftjob.dev "fixed" is invalid: {sentence}' for sentence in (optional, with_a_default)}
    assert (await stored(api))["metadata"]["generation"] == 1


def test_kubectl_shows_which_field_is_immutable(kubectl: Kubectl) -> None:
    change = json.dumps({"spec": {"storage": FIXED["storage"]}})
    done = kubectl.run("patch", "sftjob", "fixed", "-n", NAMESPACE, "--type=merge", "-p", change)
    sentence = f'The SFTJob "fixed" is invalid: spec.storage: Invalid value: "object": {CAN_NOT_CHANGE}\n'
    assert (done.returncode, done.stderr) == (1, sentence)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["python", "other.py"], f'spec.command: Invalid value: "array": {CAN_NOT_CHANGE}'),
        (None, "spec.model: Required value: write it, or write command for an image of your own"),
    ],
    ids=["another", "none any more"],
)
async def test_the_command_of_an_image_of_ones_own_stays(api: HttpApi, command: Any, sentence: str) -> None:
    status, message = await patch(api, {"command": command}, "own")
    assert (status, sentence in message) == (422, True), message


async def test_no_command_can_be_added(api: HttpApi) -> None:
    status, message = await patch(api, {"command": ["python"]})
    assert (status, "command is for an image of your own" in message) == (422, True), message


@pytest.mark.parametrize(
    "change",
    [
        {"env": list(reversed(load_manifest(BEFORE)["spec"]["env"]))},
        {"imagePullSecrets": list(reversed(load_manifest(BEFORE)["spec"]["imagePullSecrets"]))},
        {"resources": {"gpus": 1}},
        {"training": {"extra": {"dataloader_num_workers": 1}}},
    ],
    ids=", ".join,
)
async def test_what_means_the_same_is_no_change(api: HttpApi, change: dict[str, Any]) -> None:
    assert await patch(api, change) == (200, "")


async def test_labels_and_annotations_can_be_changed(api: HttpApi) -> None:
    changes = {"labels": {"team": "research"}, "annotations": {"note": "kept"}}
    assert (await api("PATCH", f"{JOBS}/fixed", {"metadata": changes}, MERGE)).status == 200
    metadata = (await stored(api))["metadata"]
    assert (metadata["labels"], metadata["annotations"]["note"]) == (changes["labels"], "kept")


@pytest.mark.parametrize(("field", "values"), CHANGEABLE.items())
async def test_it_can_be_set_changed_and_removed_at_any_time(api: HttpApi, field: str, values: tuple[Any, Any]) -> None:
    for value in values:
        assert await patch(api, {field: value}) == (200, "")
        assert (await stored(api))["spec"][field] == value
    assert await patch(api, {field: None}) == (200, "")
    assert (await stored(api))["spec"].get(field) in (None, False)
