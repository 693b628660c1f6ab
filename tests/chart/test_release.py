"""The life of a release on the sandbox's API server, with the real Helm: install, upgrade, rollback, uninstall."""

import base64
import itertools
import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sftjob_dev.stack import free_port
from sftjob_sandbox.sandbox import Sandbox
from support.checks.rbac import identity
from support.clients.background import background_sandbox
from support.clients.helm import CHART, Helm, running_helm
from support.clients.kubectl import Kubectl

NAMESPACE = "sftjob-system"
NAME = "sftjob-operator"
HOST = f"{NAME}.{NAMESPACE}.svc"
SAMPLE = CHART.parents[1] / "crds" / "samples" / "minimal.yaml"
SECRET = f"{NAME}-progress-tls"


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    with background_sandbox(Sandbox(data=tmp_path / "sandbox", with_node=False)) as up:
        yield up


@pytest.fixture
def kubectl(sandbox: Sandbox, tmp_path: Path) -> Kubectl:
    kubectl = Kubectl(sandbox.kubeconfig, tmp_path / "kubectl-cache")
    for namespace in (NAMESPACE, "team-a", "team-b"):
        kubectl("create", "namespace", namespace)
    return kubectl


@pytest.fixture
def release(sandbox: Sandbox, tmp_path: Path) -> Iterator[Any]:
    """`release("install", values)` and so on. This Helm ends, and with it its connections, before the sandbox does."""
    with running_helm(tmp_path / "helm-home") as helm:

        def act(action: str, values: dict[str, Any] | None = None, **arguments: Any) -> Any:
            chart = {"chart": str(CHART), "values": values} if values is not None else {}
            return helm.release(sandbox.kubeconfig, NAMESPACE, action, name=NAME, **chart, **arguments)

        yield act


def stored(kubectl: Kubectl, objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the objects that the server has, as it has them."""
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    found = kubectl("get", "--ignore-not-found", "-o", "json", "-f", "-", text=text)
    items: list[dict[str, Any]] = json.loads(found)["items"] if found else []
    return items


def differences(kubectl: Kubectl, objects: list[dict[str, Any]]) -> list[str]:
    """Where the server has something other than the objects; one that is not there is a difference."""
    found = {identity(obj): obj for obj in stored(kubectl, objects)}
    return [line for obj in objects for line in lacking(found.get(identity(obj)), obj, "/".join(identity(obj)))]


def missing(kubectl: Kubectl, objects: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Those of the objects that the server does not have."""
    found = {identity(obj) for obj in stored(kubectl, objects)}
    return [identity(obj) for obj in objects if identity(obj) not in found]


def test_a_release_is_installed_changed_rolled_back_and_removed(helm: Helm, kubectl: Kubectl, release: Any) -> None:
    both, one = {"namespaces": ["team-a", "team-b"]}, {"namespaces": ["team-a"], "workers": 4}
    at_first, later = helm.objects(both), helm.objects(one)

    assert release("install", both)["status"] == "deployed"
    assert differences(kubectl, at_first) == []
    assert kubectl.json("get", "sft", "-A")["items"] == []

    assert release("upgrade", one)["revision"] == 2
    assert differences(kubectl, later) == []
    left = [identity(obj) for obj in at_first if obj["metadata"].get("namespace") == "team-b"]
    assert missing(kubectl, at_first) == left

    release("rollback", version=1)
    assert differences(kubectl, at_first) == []
    assert [revision["status"] for revision in release("history")] == ["superseded", "superseded", "deployed"]

    release("uninstall")
    kept = [obj for obj in at_first if obj["kind"] == "CustomResourceDefinition"]
    assert missing(kubectl, at_first) == [identity(obj) for obj in at_first if obj not in kept]


@pytest.mark.slow
def test_a_namespace_that_does_not_exist_holds_nothing_back(helm: Helm, kubectl: Kubectl, release: Any) -> None:
    both, one = {"namespaces": ["team-a", "team-b"]}, {"namespaces": ["team-a"]}
    release("install", both)
    kubectl("delete", "namespace", "team-b")
    kubectl("wait", "--for=delete", "namespace/team-b", "--timeout=30s")
    upgraded = release("upgrade", both)
    assert upgraded["status"] == "deployed"
    of_team_a = [obj for obj in helm.objects(one) if obj["metadata"].get("namespace") == "team-a"]
    assert of_team_a
    assert missing(kubectl, of_team_a) == []
    kubectl("create", "namespace", "team-b")
    release("upgrade", both)
    assert missing(kubectl, helm.objects(both)) == []


def lacking(live: Any, wanted: Any, path: str = "") -> list[str]:
    """Where the server has something other than what was asked for; it may have more."""
    if isinstance(wanted, dict) and isinstance(live, dict):
        return [line for key, value in wanted.items() for line in lacking(live.get(key), value, f"{path}.{key}")]
    if isinstance(wanted, list) and isinstance(live, list) and len(live) == len(wanted):
        pairs = enumerate(zip(live, wanted, strict=True))
        return [line for index, pair in pairs for line in lacking(*pair, f"{path}[{index}]")]
    left_out = live is None and not wanted  # Go does not write the zero value of an optional field
    return [] if live == wanted or left_out else [f"{path}: {live!r}, not {wanted!r}"]


def test_jobs_outlive_the_release_and_the_next_one_takes_the_definition_over(kubectl: Kubectl, release: Any) -> None:
    release("install", {})
    kubectl("apply", "-f", str(SAMPLE))
    release("uninstall")
    assert kubectl("get", "sft", "-o", "name").split() == ["sftjob.sftjob.dev/minimal"]
    assert release("install", {})["status"] == "deployed"


@pytest.mark.slow
def test_without_keep_the_definition_goes_with_the_release(kubectl: Kubectl, release: Any) -> None:
    release("install", {"crds": {"keep": False}})
    release("uninstall")
    assert "NotFound" in kubectl.run("get", "crd", "sftjobs.sftjob.dev").stderr


@pytest.mark.slow
def test_the_operator_fills_the_secret_and_an_upgrade_leaves_it_alone(
    sandbox: Sandbox, kubectl: Kubectl, release: Any
) -> None:
    release("install", {})
    assert secret(kubectl) == {}
    with operator(sandbox, kubectl) as port:
        made = secret(kubectl)
        assert shown(port, made["ca.crt"]) == certificate(made)
    release("upgrade", {"workers": 4})
    release("rollback", version=1)
    assert secret(kubectl) == made
    with operator(sandbox, kubectl) as port:
        assert shown(port, made["ca.crt"]) == certificate(made)
    assert secret(kubectl) == made


def secret(kubectl: Kubectl) -> dict[str, str]:
    """Decoded contents of the Secret."""
    data = kubectl.json("get", "secret", SECRET, "-n", NAMESPACE).get("data") or {}
    return {name: base64.b64decode(content).decode() for name, content in data.items()}


def certificate(files: dict[str, str]) -> bytes:
    return ssl.PEM_cert_to_DER_cert(files["tls.crt"])


def shown(port: int, ca: str) -> bytes | None:
    """The certificate of the endpoint, verified by `ca` and by the name that trainers use."""
    context = ssl.create_default_context(cadata=ca)
    plain = socket.create_connection(("127.0.0.1", port), timeout=30)
    with plain, context.wrap_socket(plain, server_hostname=HOST) as connection:
        return connection.getpeercert(binary_form=True)


@contextmanager
def operator(sandbox: Sandbox, kubectl: Kubectl) -> Iterator[int]:
    """The operator as the Deployment starts it, but on free ports of this machine; the port of its endpoint."""
    deployment = kubectl.json("get", "deployment", NAME, "-n", NAMESPACE)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    port = free_port()
    own = {
        "KUBECONFIG": str(sandbox.kubeconfig),
        "SFTJOB_PROGRESS_ADDRESS": f"127.0.0.1:{port}",
        "SFTJOB_LIVENESS_ADDRESS": f"127.0.0.1:{free_port()}",
    }
    given = {item["name"]: item.get("value", "from-the-downward-api") for item in container["env"]}
    environ = {**os.environ, **given, **own}
    command = [sys.executable, "-m", "sftjob_operator"]
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            said = list(itertools.takewhile(lambda line: "started: trainers report" not in line, process.stderr))
            assert process.poll() is None, "".join(said)
            yield port
        finally:
            process.terminate()
            process.communicate()
