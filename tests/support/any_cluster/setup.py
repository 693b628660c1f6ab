"""Setting a test bed up on a cluster, and clearing away all that it made there."""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import yaml

from sftjob_contract.names import GROUP, PLURAL
from support.any_cluster.bed import Bed
from support.any_cluster.helper_pods import PROGRAMS, programs
from support.any_cluster.release import NAME, Release, SandboxRelease
from support.any_cluster.server import LONG_SECONDS, Server, wait_until
from support.clients.helm import CHART, Helm, HelmRefusalError
from support.jobs.builders import a_command
from support.jobs.manifests import DEFINITION

PART_OF: Final = "app.kubernetes.io/part-of"
"""Label of every namespace and every object of the cluster that a test bed makes; its value is the bed's prefix."""
_LEVEL: Final = "pod-security.kubernetes.io/enforce"
_CRD: Final = f"{PLURAL}.{GROUP}"
_FOREIGN_OPERATOR_SECONDS: Final = 15.0
_OF_THE_CLUSTER: Final = (
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
)


class UnfitError(Exception):
    """The cluster cannot be tested as it is; the text says what to do."""


@contextmanager
def a_bed(server: Server, helm: Helm, data: Path, *, registry: str, storage_class: str | None) -> Iterator[Bed]:
    """A bed with a ready operator and the claim that jobs read from. However it is left, nothing of it stays.

    Raises:
        UnfitError: something on the cluster is in the way.
    """
    prefix = f"sftjob-test-{secrets.token_hex(3)}"
    definition_was_there = server.find("crd", _CRD) is not None
    image, values = _images(server, registry)
    release = _release(server, helm, f"{prefix}-operator", data)
    bed = Bed(server, release, prefix, image, storage_class)
    release.values = {
        **values,
        "crds": {"enabled": not definition_was_there},
        "namespaces": [bed.namespace, bed.second, bed.guarded],
        "progress": {"intervalSeconds": 1},
    }
    try:
        _make_namespaces(bed)
        if definition_was_there:
            _check_definition(server)
            _check_that_nobody_else_serves(bed)
        release.install()
        bed.fill()
        yield bed
    finally:
        clear(bed, with_definition=not definition_was_there)


def clear(bed: Bed, *, with_definition: bool) -> None:
    """Remove everything that carries the bed's name. Each step is tried, whatever became of the one before."""
    kubectl, selector = bed.server.kubectl, f"{PART_OF}={bed.prefix}"
    with ExitStack() as steps:  # the last one is the first
        if with_definition:
            steps.callback(_remove_definition, bed.server)
        wait = f"--timeout={int(LONG_SECONDS)}s"
        steps.callback(kubectl.run, "delete", "namespace", "-l", selector, wait, timeout=LONG_SECONDS + 10)
        roles = ("clusterroles,clusterrolebindings", f"{bed.release.namespace}:{NAME}")
        steps.callback(kubectl.run, "delete", *roles, "--ignore-not-found")  # if Helm could not
        steps.callback(_uninstall, bed)
        for namespace in (bed.namespace, bed.second, bed.guarded):
            steps.callback(bed.kubectl(namespace).run, "delete", "sft", "--all", "--wait=false")
        for kind in _OF_THE_CLUSTER:
            steps.callback(kubectl.run, "delete", kind, "-l", selector)  # the server may not have the kind


def _uninstall(bed: Bed) -> None:
    with suppress(HelmRefusalError):  # it was not installed
        bed.release.uninstall()


def _remove_definition(server: Server) -> None:
    left = server.kubectl.run("get", "sft", "--all-namespaces", "-o", "name").stdout.split()
    if left:
        print(f"the definition {_CRD} stays, since SFTJobs of others have appeared: {', '.join(left)}")  # noqa: T201
    else:
        server.kubectl.run("delete", "crd", _CRD, "--ignore-not-found", timeout=LONG_SECONDS)


def _images(server: Server, registry: str) -> tuple[str, dict[str, Any]]:
    """The trainer's image, and the chart's values that name both images."""
    if server.is_sandbox:
        node = server.kubectl.json("get", "nodes")["items"][0]
        image = str(node["status"]["images"][0]["names"][0])
        repository, _, tag = image.rpartition(":")
        return image, {"trainerImage": {"repository": repository, "tag": tag}}
    version = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))["appVersion"]
    return f"{registry}/sftjob-trainer:{version}".lstrip("/"), {"imageRegistry": registry}


def _release(server: Server, helm: Helm, namespace: str, data: Path) -> Release:
    if server.is_sandbox:
        return SandboxRelease(server, helm, namespace, {}, data)
    return Release(server, helm, namespace, {})


def _make_namespaces(bed: Bed) -> None:
    restricted = (bed.release.namespace, bed.namespace, bed.second, bed.guarded)
    make_namespaces(bed, **dict.fromkeys(restricted, "restricted"), **{bed.open: "privileged"})


def make_namespaces(bed: Bed, **levels: str) -> None:
    """Namespaces of the bed, each with its Pod Security level, ready to take Pods."""
    objects = [_namespace(bed, name, level) for name, level in levels.items()]
    objects += [{**programs(), "metadata": {"name": PROGRAMS, "namespace": name}} for name in levels]
    bed.server.kubectl("create", "-f", "-", text=yaml.safe_dump_all(objects))
    for name in levels:
        wait_until(partial(bed.server.find, "serviceaccount", "default", f"-n={name}"), f"{name} is not ready")


def _namespace(bed: Bed, name: str, level: str) -> dict[str, Any]:
    metadata = {"name": name, "labels": {PART_OF: bed.prefix, _LEVEL: level}}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def _check_definition(server: Server) -> None:
    """The definition that is there must be this checkout's: a dry run of applying it would change nothing."""
    options = ("--server-side", "--force-conflicts", "--dry-run=server", "-f", str(DEFINITION))
    ours = server.kubectl.json("apply", *options)["spec"]
    theirs = server.kubectl.json("get", "crd", _CRD)["spec"]
    if ours != theirs:
        raise UnfitError(
            f"the cluster has another {_CRD} than crds/sftjobs.yaml: bring it up to date with "
            "`kubectl apply --server-side --force-conflicts -f crds/sftjobs.yaml`, or delete it with all SFTJobs, and "
            "the tests install and remove their own"
        )


def _check_that_nobody_else_serves(bed: Bed) -> None:
    """Two operators on one job would spoil every test: a job of ours must be left alone before ours is there."""
    job = a_command("sleep", "1", name="probe", namespace=bed.namespace).set("image", bed.image).set("suspend", True)
    bed.apply(job.resources(gpus=0))
    try:
        wait_until(lambda: bed.status("probe"), "", seconds=_FOREIGN_OPERATOR_SECONDS)
    except AssertionError:
        bed.kubectl()("delete", "sft", "probe")
        return
    raise UnfitError(
        "an operator on this cluster already runs the SFTJobs of every namespace: limit it to its own with the chart's "
        "`namespaces`, uninstall it, or name another cluster"
    )
