"""What of a job can be changed after its creation: three fields, and nothing else."""

import json
from typing import Any

import pytest

from sftjob_operator.api.crd import resource_schema
from support.builders import a_command
from support.kubectl import Kubectl
from support.manifests import DEFINITION, IMMUTABLE, load_manifest

BEFORE = IMMUTABLE / "before.yaml"
CAN_NOT_CHANGE = "can not be changed: delete this SFTJob, or create a new one under another name"
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


@pytest.fixture(scope="module")
def kubectl(sandbox_kubectl: Kubectl) -> Kubectl:
    """kubectl on a server with one job."""
    sandbox_kubectl("apply", "-f", str(DEFINITION))
    sandbox_kubectl("wait", "--for=condition=Established", "crd/sftjobs.sftjob.dev", "--timeout=30s")
    sandbox_kubectl("apply", "-f", str(BEFORE))
    return sandbox_kubectl


def patch(kubectl: Kubectl, spec: dict[str, Any]) -> tuple[int, str]:
    """Exit status of a change to the spec, and what was said about it."""
    done = kubectl.run("patch", "sftjob", "fixed", "--type=merge", "-p", json.dumps({"spec": spec}))
    return done.returncode, done.stderr.strip()


def test_every_field_of_the_spec_is_looked_at() -> None:
    assert set(FIXED) | set(CHANGEABLE) | {"command"} == set(resource_schema()["properties"]["spec"]["properties"])


@pytest.mark.parametrize(("name", "change"), REFUSED, ids=[name for name, _ in REFUSED])
def test_a_change_is_refused_and_the_field_is_named(kubectl: Kubectl, name: str, change: dict[str, Any]) -> None:
    (field,) = change
    optional = f'spec: Invalid value: "object": {field} {CAN_NOT_CHANGE}'
    with_a_default = f'spec.{field}: Invalid value: "object": {CAN_NOT_CHANGE}'
    status, said = patch(kubectl, change)
    assert status == 1
    assert said in {f'The SFTJob "fixed" is invalid: {sentence}' for sentence in (optional, with_a_default)}
    assert kubectl.json("get", "sft", "fixed")["metadata"]["generation"] == 1


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["python", "other.py"], f'spec.command: Invalid value: "array": {CAN_NOT_CHANGE}'),
        (None, "spec.model: Required value: write it, or write command for an image of your own"),
    ],
    ids=["another", "none any more"],
)
def test_the_command_of_an_image_of_ones_own_stays(kubectl: Kubectl, command: Any, sentence: str) -> None:
    kubectl("apply", "-f", "-", text=json.dumps(a_command(name="own", namespace="default").manifest()))
    done = kubectl.run("patch", "sftjob", "own", "--type=merge", "-p", json.dumps({"spec": {"command": command}}))
    assert (done.returncode, sentence in done.stderr) == (1, True), done.stderr


def test_no_command_can_be_added(kubectl: Kubectl) -> None:
    status, said = patch(kubectl, {"command": ["python"]})
    assert (status, "command is for an image of your own" in said) == (1, True), said


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
def test_what_means_the_same_is_no_change(kubectl: Kubectl, change: dict[str, Any]) -> None:
    assert patch(kubectl, change) == (0, "")


def test_labels_and_annotations_can_be_changed(kubectl: Kubectl) -> None:
    kubectl("label", "sftjob", "fixed", "team=research", "--overwrite")
    kubectl("annotate", "sftjob", "fixed", "note=kept", "--overwrite")
    assert kubectl.json("get", "sft", "fixed")["metadata"]["labels"] == {"team": "research"}


@pytest.mark.parametrize(("field", "values"), CHANGEABLE.items())
def test_it_can_be_set_changed_and_removed_at_any_time(kubectl: Kubectl, field: str, values: tuple[Any, Any]) -> None:
    for value in values:
        assert patch(kubectl, {field: value}) == (0, "")
        assert kubectl.json("get", "sft", "fixed")["spec"][field] == value
    assert patch(kubectl, {field: None}) == (0, "")
    assert kubectl.json("get", "sft", "fixed")["spec"].get(field) in (None, False)
