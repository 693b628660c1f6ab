"""What can be seen of one job from outside: every status that it has had, and which of its Pods live."""

import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client, config, watch

from sftjob_contract.names import LABEL_ATTEMPT, LABEL_JOB, LABEL_STAGE, Stage
from sftjob_dev.cluster import Cluster
from support.checks.status_rules import illegal_transitions, shrunk_attempts

LONGEST_SECONDS = 600
ENDS = ("Succeeded", "Failed")
Status = dict[str, Any]


class Eyes:
    """Two watches in threads of their own, straight to the API server."""

    def __init__(self, kubeconfig: Path, job: str) -> None:
        self.statuses: list[Status] = [{}]
        self.side_by_side: set[frozenset[str]] = set()
        """Attempts whose train Pods were live at the same time."""
        self._live: dict[str, str] = {}
        self._kubeconfig = kubeconfig
        self.job = job
        for work in (self._see_job, self._see_pods):
            threading.Thread(target=work, daemon=True).start()

    @property
    def status(self) -> Status:
        """The newest status."""
        return self.statuses[-1]

    @property
    def ended(self) -> bool:
        """The job has succeeded or failed."""
        return self.status.get("phase") in ENDS

    @property
    def attempts(self) -> list[Status]:
        """The attempts of the Train stage."""
        return [attempt for attempt in self.status.get("attempts", ()) if attempt["stage"] == Stage.TRAIN]

    @property
    def live(self) -> tuple[str, int] | None:
        """The train Pod that is live, and its attempt."""
        return next(((pod, int(attempt)) for pod, attempt in self._live.copy().items()), None)

    def reason(self, pod: str) -> str | None:
        """Why the attempt of a train Pod ended or is being ended, as far as the status tells."""
        return next((attempt.get("reason") for attempt in self.attempts if attempt["pod"] == pod), None)

    def violations(self, *, keep: int, broken: set[int]) -> list[str]:
        """What may never have happened. `broken` are steps of checkpoints that were damaged on purpose."""
        phases = [status.get("phase") for status in self.statuses]
        found = [f"phase {before} was followed by {after}" for before, after in illegal_transitions(phases)]
        found += [f"attempts {', '.join(sorted(pair))} trained at the same time" for pair in self.side_by_side]
        for before, after in pairwise(self.statuses):
            if lost := shrunk_attempts(before, after):
                found.append(f"of the attempts {lost} some are gone")
            steps = {entry["step"] for entry in after.get("checkpoints", ())}
            for entry in before.get("checkpoints", ()):
                step = entry["step"]
                if step not in steps | broken and sum(other > step for other in steps) < keep:
                    found.append(f"checkpoint {step} vanished, though only {sorted(steps)} are left")
        return found

    def _see_job(self) -> None:
        for body in Cluster(self._kubeconfig).follow(self.job, LONGEST_SECONDS):
            self.statuses.append(body.get("status", {}))
            if self.ended:
                return

    def _see_pods(self) -> None:
        core = client.CoreV1Api(config.new_client_from_config(str(self._kubeconfig)))
        labels = f"{LABEL_JOB}={self.job},{LABEL_STAGE}={Stage.TRAIN}"
        stream = watch.Watch().stream(
            core.list_namespaced_pod, "default", label_selector=labels, timeout_seconds=LONGEST_SECONDS
        )
        try:
            for event in stream:
                pod = event["object"]
                self._live.pop(pod.metadata.name, None)
                if event["type"] != "DELETED" and pod.status.phase not in ENDS:
                    self._live[pod.metadata.name] = pod.metadata.labels[LABEL_ATTEMPT]
                if len(set(self._live.values())) > 1:
                    self.side_by_side.add(frozenset(self._live.values()))
        except urllib3.exceptions.HTTPError:
            return  # the sandbox is gone, and the test with it
