"""Hostile admission: many jobs on a server that refuses the creates of their children in every way, until it is lifted.

The node only plays the life of Pods. Every first trainer is killed, so that later attempts of healthy runs are refused
as well. While it lasts, the operator is killed and its connections are cut.
"""

import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from sftjob_contract.names import Stage
from sftjob_contract.reasons import Reason
from support.clients.kubectl import Kubectl
from support.jobs.builders import a_job
from support.servers.hostile_api import Admission, no_faults
from support.stacks.hostile_stack import HostileFakeStack

JOBS: Final = 12
PACE: Final = 0.05
"""Times of a Pod's life, as a part of lifelike ones."""
REFUSED: Final = 0.6
"""Part of the creates that are refused."""
LASTS_SECONDS: Final = 45.0
DEEDS: Final = 3
"""Times that the operator is killed or its connections are cut."""
_MANY: Final = 10_000
Body = Mapping[str, Any]


@dataclass(frozen=True)
class Refused:
    """What was refused, and what should not have been."""

    denials: Counter[str]
    violations: list[str]


def play(directory: Path, seed: int, lasts_seconds: float = LASTS_SECONDS) -> Refused:
    """Play the stage once; the same seed draws the same denials, though not for the same requests."""
    draw = random.Random(seed)
    with HostileFakeStack(directory, _MANY, PACE, "mortal") as stack:
        kubectl = Kubectl(stack.kubeconfig, directory / "kubectl-cache")
        stack.api.plan = Admission(draw.randrange(2**32), REFUSED)
        kubectl("apply", "-f", "-", text=yaml.safe_dump_all(_job(number) for number in range(JOBS)))
        began = time.monotonic()
        for moment in sorted(draw.uniform(0, lasts_seconds) for _ in range(DEEDS)):
            stack.keep_operator(until=lambda moment=moment: time.monotonic() - began > moment)
            draw.choice([stack.shoot_operator, stack.api.cut])()
        stack.keep_operator(until=lambda: time.monotonic() - began > lasts_seconds)
        found = [wrong for job in _jobs(kubectl) for wrong in _silent(job)]
        stack.api.plan = no_faults
        denials = Counter(stack.api.injected)
        stack.keep_operator(until=lambda: all(map(_ended, _jobs(kubectl))))
        pods = [pod["metadata"]["name"] for pod in kubectl.json("get", "pods")["items"]]
        found += [wrong for job in _jobs(kubectl) for wrong in _wrong(job, pods)]
        return Refused(denials, found)


def _job(number: int) -> Body:
    return a_job(f"refused-{number}", "default").failure_policy(max_retries=1, backoff_seconds=1).manifest()


def _jobs(kubectl: Kubectl) -> list[Body]:
    jobs: list[Body] = kubectl.json("get", "sftjobs")["items"]
    return jobs


def _ended(job: Body) -> bool:
    return job.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _silent(job: Body) -> list[str]:
    """A job that waits for a child must show why."""
    status = job.get("status", {})
    if status.get("conditions"):
        return []
    return [f"{job['metadata']['name']} has no condition while its children are refused"]


def _wrong(job: Body, pods: list[str]) -> list[str]:
    """Whatever was refused, each attempt exists once, and only the trainer that was killed failed."""
    name, status = job["metadata"]["name"], job["status"]
    found = [] if status["phase"] == "Succeeded" else [f"{name} ended as {status['phase']}: {status['conditions']}"]
    attempts = [(attempt["stage"], attempt["number"], attempt["reason"]) for attempt in status.get("attempts", ())]
    expected = [(Stage.PREPARE, 1, "Completed"), (Stage.TRAIN, 1, Reason.KILLED), (Stage.TRAIN, 2, "Completed")]
    found += [] if attempts == expected else [f"{name} has the attempts {attempts}"]
    names = {f"{name}-{stage}-{number}" for stage, number, _ in expected}
    extra = {pod for pod in pods if pod.startswith(f"{name}-")} - names
    return found + [f"{pod} exists, which no attempt of {name} has" for pod in sorted(extra)]
