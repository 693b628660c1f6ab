"""The output on its way to a hub and an object store, and a checkpoint on its way back: through the operator."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sftjob_contract.layout import CHECKPOINTS, METRICS, OUTPUT_ADAPTER, OUTPUT_MODEL, TRAIN_LOG, checkpoint_name
from support.jobs.builders import JobBuilder
from support.jobs.small_jobs import a_small_job, condition, metrics, phase, reach, trainer
from support.servers.hub import Hub
from support.servers.object_store import ObjectStore
from support.stacks.running_stack import Lab

pytestmark = pytest.mark.slow
STEPS = 10
REPOSITORY = "team/bot"
URI = "s3://models/bot"
TOKEN = "hf_that_writes_63ab"
KEY = "never-to-be-seen-52c7"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub(tokens=frozenset({TOKEN}), writers=frozenset({TOKEN})) as running:
        yield running


@pytest.fixture
def store() -> Iterator[ObjectStore]:
    with ObjectStore({"models/other": b""}) as running:
        yield running


def secret(lab: Lab, name: str, **values: str) -> None:
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}
    lab.kubectl("apply", "-f", "-", text=yaml.safe_dump(body))


def keys(lab: Lab, store: ObjectStore) -> dict[str, Any]:
    """A Secret with what it takes to write into the store; the reference to it."""
    secret(
        lab,
        "store",
        AWS_ACCESS_KEY_ID=store.access_key,
        AWS_SECRET_ACCESS_KEY=KEY,
        AWS_ENDPOINT_URL=store.url,
        AWS_EC2_METADATA_DISABLED="true",
    )
    return {"name": "store"}


def pushing(lab: Lab, name: str, hub: Hub, token: str) -> JobBuilder:
    secret(lab, f"{name}-token", token=token)
    reference = {"name": f"{name}-token", "key": "token"}
    return (
        a_small_job(name)
        .training(max_steps=STEPS)
        .lora(rank=4)
        .output(hub={"repository": REPOSITORY, "tokenSecretRef": reference})
        .failure_policy(max_retries=2, backoff_seconds=1)
        .env(HF_ENDPOINT=hub.url, NO_PROXY="127.0.0.1")
    )


def assert_nowhere(lab: Lab, name: str, *secrets: str) -> None:
    """What people can read of a job has no secret in it."""
    texts = [lab.kubectl(*words) for words in (("get", "sft", name, "-o", "yaml"), ("get", "events", "-o", "yaml"))]
    pods = [f"{name}-train-1", f"{name}-publish-1"]
    texts += [(lab.stack.volume(name) / TRAIN_LOG).read_text(), *(lab.kubectl("logs", pod) for pod in pods)]
    assert [text for text in texts if any(hidden in text for hidden in secrets)] == []


def test_a_run_whose_hub_is_down_trains_once_and_pushes_with_the_next_publish_attempt(
    lab: Lab, hub: Hub, store: ObjectStore
) -> None:
    hub.broken = True
    lab.apply(pushing(lab, "pushed", hub, TOKEN).output(upload={"uri": URI, "secretRef": keys(lab, store)}))
    reach(lab.cluster, "pushed", phase("Publishing", "Failed"))
    assert hub.asked.wait(timeout=120)
    trainer("pushed-publish-1").kill()
    hub.broken = False

    status = reach(lab.cluster, "pushed", phase("Succeeded", "Failed"))

    assert status["phase"] == "Succeeded", status["conditions"]
    assert [(a["stage"], a["number"], a["reason"]) for a in status["attempts"]] == [
        *(("prepare", 1, "Completed"), ("train", 1, "Completed")),
        *(("publish", 1, "Killed"), ("publish", 2, "Completed")),
    ]
    assert status["plan"]["publishStage"] is True
    assert {line["attempt"] for line in metrics(lab.stack, "pushed")} == {1}
    assert status["output"]["uploaded"] == [f"hf://{REPOSITORY}", URI]
    assert f"and hf://{REPOSITORY} and {URI}." in condition(status, "Succeeded")["message"]
    weights = (lab.stack.volume("pushed") / OUTPUT_ADAPTER / "adapter_model.safetensors").read_bytes()
    assert hub.files(REPOSITORY)["adapter_model.safetensors"] == weights
    assert store.objects[f"models/bot/{OUTPUT_ADAPTER}/adapter_model.safetensors"] == weights
    assert store.objects[f"models/bot/{METRICS}"] == (lab.stack.volume("pushed") / METRICS).read_bytes()
    assert_nowhere(lab, "pushed", TOKEN, KEY)


def test_a_run_starts_from_a_checkpoint_in_an_object_store(lab: Lab, store: ObjectStore) -> None:
    first = a_small_job("first").training(max_steps=STEPS)
    lab.apply(first)
    reach(lab.cluster, "first", phase("Succeeded", "Failed"))
    copied(lab.stack.volume("first") / CHECKPOINTS / checkpoint_name(STEPS), store, "models/first")

    job = a_small_job("second").training(max_steps=STEPS).set("model.secretRef", keys(lab, store))
    lab.apply(job.checkpoints(resume_from={"source": "s3://models/first"}))
    status = reach(lab.cluster, "second", phase("Succeeded", "Failed"))

    assert status["phase"] == "Succeeded", status["conditions"]
    reached = [line["evalLoss"] for line in metrics(lab.stack, "first") if "evalLoss" in line][-1]
    assert status["output"]["metrics"]["initialEvalLoss"] == pytest.approx(reached, rel=1e-4)
    assert (lab.stack.volume("second") / OUTPUT_MODEL / "model.safetensors").is_file()


def copied(directory: Path, store: ObjectStore, prefix: str) -> None:
    """Put a directory into the store under its own name."""
    for path in directory.iterdir():
        store.objects[f"{prefix}/{directory.name}/{path.name}"] = path.read_bytes()
