"""Small real jobs for the integration tests: what they read, how to wait for them, what they left behind."""

import json
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from sftjob_contract.layout import METRICS
from sftjob_contract.names import Stage
from sftjob_dev.cluster import Cluster
from sftjob_dev.stack import Stack
from support.clients.kubectl import Kubectl
from support.forking import processes_of
from support.jobs.builders import JobBuilder, a_job
from support.trainer.tiny import write_model

INPUT = "input"
"""Claim that holds the model and the data of the tests."""
INPUT_CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": INPUT},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
}
WAIT_SECONDS = 300
Status = dict[str, Any]


def a_small_job(name: str, *, data: str = "train.jsonl") -> JobBuilder:
    """Full fine-tuning of a tiny model on the CPU, a loss for every step."""
    return (
        a_job(name, "default")
        .model(f"pvc://{INPUT}/model")
        .dataset(f"pvc://{INPUT}/{data}", evaluation={"fraction": 0.1})
        .full()
        .training(per_device_batch_size=2, gradient_accumulation_steps=1, learning_rate=1e-3)
        .training(max_steps=40, max_length=64, logging_steps=1, gradient_checkpointing=False)
        .storage(size="1Gi")
        .resources(gpus=0, cpu="1")
    )


def provide_input(stack: Stack, kubectl: Kubectl, *, rows: int) -> None:
    """Create the claim that small jobs read from, with a model and so many rows on it."""
    kubectl("apply", "-f", "-", text=yaml.safe_dump(INPUT_CLAIM))
    write_model(stack.volume(INPUT) / "model")
    write_rows(stack.volume(INPUT) / "train.jsonl", [{"text": text} for text in sentences(rows)])


def sentences(rows: int) -> list[str]:
    """Deterministic text with something to learn in it."""
    source = random.Random(7)
    who = ("the parser", "a list", "the thread", "this module", "an iterator", "the caller")
    does = ("returns", "raises", "copies", "closes", "waits for", "removes")
    what = ("the first item", "an error", "every line", "the file", "a new object", "nothing")
    return [f"{source.choice(who)} {source.choice(does)} {source.choice(what)} ({row})." for row in range(rows)]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """`rows` as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def reach(cluster: Cluster, job: str, condition: Callable[[Status], bool], *, seconds: int = WAIT_SECONDS) -> Status:
    """The first status of `job` that fulfils `condition`; fails the test when none does in time."""
    status: Status = {}
    for body in cluster.follow(job, seconds):
        status = body.get("status", {})
        if condition(status):
            return status
    raise AssertionError(f"{job} did not get there within {seconds} s: {json.dumps(status, indent=2)}")


def phase(*wanted: str) -> Callable[[Status], bool]:
    """A condition: the job is in one of these phases."""
    return lambda status: status.get("phase") in wanted


def beyond(step: int) -> Callable[[Status], bool]:
    """A condition: training has got further than `step`."""
    return lambda status: status.get("progress", {}).get("step", 0) > step


def says(kind: str, reason: str) -> Callable[[Status], bool]:
    """A condition: the one of this type is there, for this reason."""
    return lambda status: any((c["type"], c["reason"]) == (kind, reason) for c in status.get("conditions", ()))


def condition(status: Status, kind: str) -> dict[str, Any]:
    """One condition of a status."""
    return next(entry for entry in status["conditions"] if entry["type"] == kind)


def metrics(stack: Stack, job: str) -> list[dict[str, Any]]:
    """Every line of the job's metrics.jsonl."""
    lines = (stack.volume(job) / METRICS).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def losses(stack: Stack, job: str) -> dict[int, float]:
    """Training loss of each step; of a step that was done again after a resume, the last one."""
    return {line["step"]: line["loss"] for line in metrics(stack, job) if "loss" in line}


COMMANDS = tuple(["-m", "sftjob_trainer", str(stage)] for stage in (Stage.TRAIN, Stage.PUBLISH))
"""What runs in Pods whose process tests look for."""


def trainer(pod: str) -> psutil.Process:
    """The process of the trainer that runs as `pod`."""
    found = trainers(pod)
    assert len(found) == 1, f"{len(found)} processes run {pod}"
    return found[0]


def suspend(pod: str) -> None:
    """Let the trainer that runs as `pod` stand still, whole."""
    for process in trainers(pod):
        for pid in processes_of(process.pid):
            with suppress(psutil.NoSuchProcess):
                psutil.Process(pid).suspend()


def trainers(pod: str) -> list[psutil.Process]:
    """The processes of the trainer that runs as `pod`: the one that trains, or the launcher and those that train."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        words = process.info["cmdline"] or []
        volume = (process.info["environ"] or {}).get("SFTJOB_VOLUME", "")
        if words[-3:] in COMMANDS and f"_{pod}_" in volume:
            found.append(process)
    return found
