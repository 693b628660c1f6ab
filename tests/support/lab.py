"""A running stack and the ways to look at it."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from cluster import Cluster
from stack import Stack
from support.builders import JobBuilder
from support.jobs import INPUT
from support.kubectl import Kubectl


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

    def apply(self, job: JobBuilder) -> str:
        """Apply a job with kubectl; what it prints."""
        return self.kubectl("apply", "-f", "-", text=yaml.safe_dump(job.manifest()))
