"""Settings of a node."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sftjob_sandbox.apimachinery.objects import Clock, utc_now


def _cpus() -> int:
    return os.cpu_count() or 1


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@dataclass(frozen=True, kw_only=True)
class NodeSettings:
    """The node's directory, its capacity and its delays. The default delays are the kubelet's."""

    data: Path
    """Directory for everything that the node writes: Pods, logs and volumes."""
    images: Mapping[str, Path] = field(default_factory=dict)
    """Images that the node has: reference to the directory that comes first on PATH."""
    name: str = "sandbox"
    gpus: int = 0
    gpu_resource: str = "nvidia.com/gpu"
    cpus: int = field(default_factory=_cpus)
    memory_bytes: int = field(default_factory=_memory_bytes)
    max_pods: int = 110
    address: str = "127.0.0.1"
    """IP address of the node and of every Pod, which share the machine's network."""
    backoff_seconds: float = 10.0
    """First wait for an image that is missing; it doubles each time up to `max_backoff_seconds`."""
    max_backoff_seconds: float = 300.0
    retry_seconds: float = 2.0
    """How often a container that lacks something is tried again when no change is observed."""
    resync_seconds: float = 30.0
    """How often ServiceAccount tokens are looked at."""
    memory_poll_seconds: float = 1.0
    """How often the memory of a container with a limit is measured."""
    shutdown_grace_seconds: float = 10.0
    """Longest grace that a Pod gets when the whole node stops."""
    clock: Clock = utc_now
