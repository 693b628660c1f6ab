"""A running stack and the ways to look at it."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from sftjob_contract.names import LABEL_JOB
from sftjob_dev.cluster import Cluster
from sftjob_dev.stack import Stack
from support.clients.kubectl import Kubectl
from support.jobs.builders import JobBuilder
from support.jobs.small_jobs import INPUT


@dataclass(frozen=True)
class Lab:
    """Sandbox, operator, kubectl and an API client."""

    stack: Stack
    kubectl: Kubectl
    cluster: Cluster

    @property
    def input(self) -> Path:
        """Directory behind the claim that jobs read from."""
        return self.stack.volume(INPUT)

    def make_room(self) -> None:
        """Delete jobs that have not ended, and return when their Pods have given their resources back."""
        jobs = self.kubectl.json("get", "sft")["items"]
        live = [
            job["metadata"]["name"] for job in jobs if job.get("status", {}).get("phase") not in ("Succeeded", "Failed")
        ]
        if live:
            self.kubectl("delete", "sft", *live, "--timeout=150s", timeout=160)
            of_them = f"{LABEL_JOB} in ({','.join(live)})"
            self.kubectl("wait", "pods", "-l", of_them, "--for=delete", "--timeout=150s", timeout=160)

    def apply(self, job: JobBuilder) -> str:
        """Apply a job with kubectl; what it prints."""
        return self.kubectl("apply", "-f", "-", text=yaml.safe_dump(job.manifest()))
