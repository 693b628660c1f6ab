"""The real kubectl against one sandbox with a node; each test has a namespace of its own."""

import itertools
import json
import ssl
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sftjob_sandbox.sandbox import Sandbox
from support.clients.background import background_sandbox
from support.clients.http_api import RUNS_ONCE, WIDGETS_FILE
from support.clients.kubectl import Kubectl
from support.clients.namespaced import Namespaced

IMAGE = "image:1"
_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    directory = tmp_path_factory.mktemp("sandbox")
    with background_sandbox(Sandbox(data=directory, images={IMAGE: Path("/bin")}, definitions=[WIDGETS_FILE])) as up:
        yield up


@pytest.fixture
def lab(sandbox: Sandbox) -> Namespaced:
    namespace = f"lab-{next(_NUMBERS)}"
    body = json.dumps({"metadata": {"name": namespace}}).encode()
    headers = {"Authorization": f"Bearer {sandbox.token}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{sandbox.url}/api/v1/namespaces", body, headers)
    with urllib.request.urlopen(request, context=ssl.create_default_context(cadata=sandbox.ca)):
        return Namespaced(Kubectl(sandbox.kubeconfig, sandbox.data / "kubectl-cache"), namespace)


@pytest.fixture
def pod() -> Any:
    """A Pod that says three lines and ends."""
    container = {"name": "main", "image": IMAGE, "command": ["sh", "-c", "echo one; echo two; sleep 0.3; echo three"]}
    spec = {**RUNS_ONCE, "containers": [container], "terminationGracePeriodSeconds": 1}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": spec}
