"""The server that a kubeconfig names: what it is, what it serves, and how to wait for it."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeVar

import pytest

from support.clients.kubectl import Kubectl

T = TypeVar("T")
POLL_SECONDS: Final = 0.5
LONG_SECONDS: Final = 600.0 if "SFTJOB_TEST_KUBECONFIG" in os.environ else 200.0
"""Patience with one step. On a cluster, image pulls, volume provisioning and rollouts are included."""
_ADMISSION: Final = "admissionregistration.k8s.io"


@dataclass(frozen=True)
class Server:
    """A Kubernetes API server."""

    kubectl: Kubectl

    @cached_property
    def version(self) -> str:
        """Its own word for what it is, such as v1.36.2."""
        return str(json.loads(self.kubectl("get", "--raw", "/version"))["gitVersion"])

    @property
    def is_sandbox(self) -> bool:
        """Whether it is the sandbox of this repository, which runs Pods and nothing above them."""
        return "sandbox" in self.version

    def require(self, resource: str) -> None:
        """Skip the test unless the server has a core resource, such as resourcequotas or pods/eviction."""
        if resource not in self._core:
            pytest.skip(f"{self.version} does not serve {resource}")

    def require_storage_classes(self) -> None:
        """Skip the test unless claims are provisioned by storage classes."""
        if self.kubectl.run("get", "--raw", "/apis/storage.k8s.io/v1").returncode != 0:
            pytest.skip(f"{self.version} does not serve storageclasses")

    def admission_version(self, plural: str) -> str:
        """The newest apiVersion of an admission policy; skips the test where the server has none."""
        for version in ("v1", "v1beta1", "v1alpha1"):
            served = self.kubectl.run("get", "--raw", f"/apis/{_ADMISSION}/{version}")
            if served.returncode == 0 and plural in {found["name"] for found in json.loads(served.stdout)["resources"]}:
                return f"{_ADMISSION}/{version}"
        pytest.skip(f"{self.version} does not serve {plural}.{_ADMISSION}")

    @cached_property
    def _core(self) -> frozenset[str]:
        resources = json.loads(self.kubectl("get", "--raw", "/api/v1"))["resources"]
        return frozenset(found["name"] for found in resources)

    def find(self, kind: str, name: str, *options: str) -> dict[str, Any] | None:
        """An object, or None if there is none of that name."""
        found = self.kubectl.run("get", kind, name, *options, "-o", "json")
        if found.returncode != 0 and ("NotFound" in found.stderr or "not found" in found.stderr):
            return None
        assert found.returncode == 0, found.stderr
        result: dict[str, Any] = json.loads(found.stdout)
        return result


def wait_until(look: Callable[[], T], otherwise: Callable[[], str] | str, *, seconds: float = LONG_SECONDS) -> T:
    """The first true answer of `look`; fails with `otherwise` when none comes in time."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise AssertionError(otherwise if isinstance(otherwise, str) else otherwise())
        time.sleep(POLL_SECONDS)
    return found
