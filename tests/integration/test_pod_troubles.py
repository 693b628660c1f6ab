"""What kubelets, schedulers and provisioners write about Pods, and what the real operator makes of it within a minute.

Nothing runs here: the tests write the statuses and Events of Pods as real components do, with kubectl.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml

from bench.operator.fake_node import STUCK
from sftjob_contract.names import CONTAINER
from sftjob_dev.cluster import Cluster
from support.checks.rbac import Grant
from support.checks.rights import not_granted
from support.clients.kubectl import Kubectl
from support.jobs.builders import a_command
from support.jobs.small_jobs import Status, condition, reach
from support.stacks.hostile_stack import HostileFakeStack

PACE = 0.1
MANY = 10_000
MINUTE = 60
TIME = "2026-03-01T12:00:00Z"
EPOCH = "1970-01-01T00:00:00Z"
Object = dict[str, Any]


def waits(reason: str, message: str = "") -> Object:
    return {"waiting": {"reason": reason, **({"message": message} if message else {})}}


def ended(code: int, reason: str, **parts: Any) -> Object:
    return {"terminated": {"exitCode": code, "reason": reason, "startedAt": TIME, "finishedAt": TIME, **parts}}


def runs() -> Object:
    return {"running": {"startedAt": TIME}}


def container(state: Object, name: str = CONTAINER, **parts: Any) -> Object:
    """A container's status as a kubelet writes it."""
    ready = "running" in state
    described = {"image": "i", "imageID": "", "ready": ready, "restartCount": 0, "started": ready}
    return {"name": name, "state": state, "lastState": {}, **described, **parts}


def a_status(phase: str, state: Object | None = None, *others: Object, **parts: Any) -> Object:
    """A Pod's status as a kubelet writes it."""
    mine = [] if state is None else [container(state)]
    return {"phase": phase, "containerStatuses": [*mine, *others], **parts}


def refused(message: str) -> Object:
    """A Pod's status as the scheduler writes it."""
    said = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return {"phase": "Pending", "conditions": [said]}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A job with one train Pod, what its status becomes, and an Event about it or its claim.

    `reason` and `words` are of `condition`, `attempt` is the reason of the first attempt once it has ended.
    """

    name: str
    status: Object
    event: tuple[str, str, str] | None = None
    condition: str = "Succeeded"
    reason: str
    words: str
    attempt: str | None = None
    storage: Object = field(default_factory=dict)

    @property
    def job(self) -> str:
        """Name of the job."""
        return f"{STUCK}-{self.name}"


STARTING = a_status("Pending", waits("ContainerCreating"))
INITIALIZING = waits("PodInitializing")
MOUNT = 'MountVolume.SetUp failed for volume "ca" : configmap "company-ca" not found'
ATTACH = 'Multi-Attach error for volume "pvc-7" Volume is already exclusively attached to one node'
SANDBOX = "Failed to create pod sandbox: rpc error: code = Unknown desc = failed to setup network: no IP addresses"
NO_PROGRAM = (
    'runc create failed: unable to start container process: exec: "no-such": executable file not found in $PATH'
)
UNBOUND = "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found"
CASES = [
    Case(name="mount", status=STARTING, event=("Pod", "FailedMount", MOUNT), reason="FailedMount", words=MOUNT),
    Case(
        name="attach",
        status=STARTING,
        event=("Pod", "FailedAttachVolume", ATTACH),
        reason="FailedAttachVolume",
        words=ATTACH,
    ),
    Case(
        name="sandbox",
        status=STARTING,
        event=("Pod", "FailedCreatePodSandBox", SANDBOX),
        reason="FailedCreatePodSandBox",
        words="no IP addresses",
    ),
    Case(
        name="init-pull",
        status=a_status(
            "Pending",
            INITIALIZING,
            initContainerStatuses=[container(waits("ImagePullBackOff", "Back-off pulling image"), "vault")],
        ),
        reason="ImagePullBackOff",
        words="Init container vault waits with ImagePullBackOff: Back-off pulling image",
    ),
    Case(
        name="init-crash",
        status=a_status(
            "Pending",
            INITIALIZING,
            initContainerStatuses=[
                container(waits("CrashLoopBackOff", "back-off 10s"), "vault", lastState=ended(1, "Error"))
            ],
        ),
        reason="CrashLoopBackOff",
        words="it last ended with exit code 1 (Error)",
    ),
    Case(
        name="pull",
        status=a_status("Pending", waits("ErrImagePull", "rpc error: not found")),
        reason="ImagePullFailed",
        words="ErrImagePull: rpc error: not found",
    ),
    Case(
        name="config",
        status=a_status("Pending", waits("CreateContainerConfigError", 'secret "hub" not found')),
        reason="CreateContainerConfigError",
        words='secret "hub" not found',
    ),
    Case(
        name="no-gpu",
        status=refused("0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),
        reason="Unschedulable",
        words="Request less in spec.resources",
    ),
    Case(
        name="conflict",
        status=refused("0/2 nodes are available: 1 node(s) had volume node affinity conflict."),
        reason="Unschedulable",
        words="WaitForFirstConsumer",
    ),
    Case(
        name="class",
        status=refused(UNBOUND),
        event=("PersistentVolumeClaim", "ProvisioningFailed", 'storageclass.storage.k8s.io "fast-ssd" not found'),
        storage={"storage_class_name": "fast-ssd"},
        reason="Unschedulable",
        words='ProvisioningFailed: storageclass.storage.k8s.io "fast-ssd" not found. Create the StorageClass fast-ssd',
    ),
    Case(
        name="no-claim",
        status=refused('0/1 nodes are available: persistentvolumeclaim "typo" not found.'),
        storage={"existing_claim": "typo"},
        reason="Unschedulable",
        words="PersistentVolumeClaim typo does not exist. Create the claim",
    ),
    Case(
        name="sidecar",
        status=a_status("Running", runs(), container(waits("CrashLoopBackOff", "back-off 40s"), "mesh")),
        reason="Training",
        words="Container mesh waits with CrashLoopBackOff: back-off 40s",
    ),
    Case(
        name="not-ready",
        status=a_status(
            "Running",
            runs(),
            conditions=[{"type": "Ready", "status": "False"}, {"type": "ContainersReady", "status": "True"}],
        ),
        reason="Training",
        words="is not ready (NotReady)",
    ),
    Case(
        name="outlived",
        status=a_status("Running", ended(0, "Completed"), container(runs(), "mesh")),
        reason="Completed",
        words="exit code 0",
        attempt="Completed",
    ),
    Case(
        name="no-program",
        status=a_status("Failed", ended(128, "StartError", message=NO_PROGRAM, startedAt=EPOCH)),
        reason="ConfigInvalid",
        words="Correct spec.command, whose first word is 'no-such'",
        attempt="ConfigInvalid",
    ),
    *(
        Case(name=name, status=status, reason="PodPending", words="demo", attempt="NodeLost")
        for name, status in {
            "reboot": a_status("Failed", ended(255, "Unknown")),
            "lost-container": a_status("Failed", ended(137, "ContainerStatusUnknown")),
            "admission": a_status("Failed", reason="UnexpectedAdmissionError", message="no healthy devices present"),
            "no-room": a_status("Failed", reason="OutOfnvidia.com/gpu", message="not enough resource"),
            "shutdown": a_status("Failed", ended(137, "Error"), reason="Terminated", message="node shutdown"),
            "affinity": a_status("Failed", reason="NodeAffinity", message="Predicate NodeAffinity failed"),
        }.items()
    ),
]
BY_NAME = {case.name: case for case in CASES}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, granted: set[Grant]) -> Iterator[HostileFakeStack]:
    with HostileFakeStack(tmp_path_factory.mktemp("troubles"), MANY, PACE) as running:
        yield running
        assert not_granted(running.api.asked, granted) == set()


@pytest.fixture(scope="module")
def kubectl(stack: HostileFakeStack) -> Kubectl:
    return Kubectl(stack.kubeconfig, stack.data / "kubectl-cache")


@pytest.fixture(scope="module")
def cluster(stack: HostileFakeStack, kubectl: Kubectl) -> Cluster:
    """With a job and a troubled Pod for each case."""
    cluster = Cluster(stack.kubeconfig)
    jobs = [a_command("no-such", name=case.job, namespace="default").storage(**case.storage) for case in CASES]
    kubectl("apply", "-f", "-", text=yaml.safe_dump_all(job.manifest() for job in jobs))
    for case in CASES:
        reach(cluster, case.job, lambda status: bool(status.get("attempts")))
        if case.event is not None:
            kind, reason, message = case.event
            kubectl("create", "-f", "-", text=yaml.safe_dump(an_event(kubectl, kind, case, reason, message)))
        pod = f"{case.job}-train-1"
        kubectl("patch", "pod", pod, "--subresource=status", "--type=merge", "-p", json.dumps({"status": case.status}))
    return cluster


def an_event(kubectl: Kubectl, kind: str, case: Case, reason: str, message: str) -> Object:
    """An Event about the Pod or the claim of a case."""
    name = f"{case.job}-train-1" if kind == "Pod" else case.job
    uid = kubectl.json("get", kind, name)["metadata"]["uid"]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{name}.1", "namespace": "default"},
        "involvedObject": {"apiVersion": "v1", "kind": kind, "name": name, "namespace": "default", "uid": uid},
        "type": "Warning",
        "reason": reason,
        "message": message,
        "source": {"component": "kubelet"},
        "firstTimestamp": TIME,
        "lastTimestamp": TIME,
        "count": 1,
    }


def stands(case: Case, status: Status) -> bool:
    """The status is as the case says."""
    if not status.get("conditions"):
        return False
    told = condition(status, case.condition)
    first = status["attempts"][0]
    if case.attempt is not None and (first.get("reason") != case.attempt or "endTime" not in first):
        return False
    return case.attempt == "NodeLost" or (told["reason"] == case.reason and case.words in told["message"])


@pytest.mark.parametrize("name", BY_NAME)
def test_what_a_pod_shows_is_in_the_condition_within_a_minute(cluster: Cluster, name: str) -> None:
    case = BY_NAME[name]
    status = reach(cluster, case.job, lambda status: stands(case, status), seconds=MINUTE)
    assert EPOCH not in json.dumps(status)
    if case.attempt == "NodeLost":
        assert status["interruptions"] == 1
        assert len(status["attempts"]) == 2


def test_a_pod_that_outlives_its_trainer_is_deleted(cluster: Cluster, kubectl: Kubectl) -> None:
    case = BY_NAME["outlived"]
    reach(cluster, case.job, lambda status: status.get("phase") == "Succeeded")
    assert kubectl.run("wait", "--for=delete", f"pod/{case.job}-train-1", "--timeout=60s").returncode == 0


def test_a_new_cause_is_one_event_and_a_transient_one_is_none(cluster: Cluster, kubectl: Kubectl) -> None:
    case = BY_NAME["class"]
    reach(cluster, case.job, lambda status: stands(case, status), seconds=MINUTE)
    events = kubectl.json("get", "events", "--field-selector", f"involvedObject.name={case.job}")["items"]
    told = [event["message"] for event in events if event["reason"] == "Unschedulable"]
    assert len(told) == 1
    assert "fast-ssd" in told[0]


def test_a_deleted_run_config_comes_back_for_the_pod_that_waits_for_it(cluster: Cluster, kubectl: Kubectl) -> None:
    name = f"{STUCK}-deleted-config"
    kubectl("apply", "-f", "-", text=yaml.safe_dump(a_command("run", name=name, namespace="default").manifest()))
    reach(cluster, name, lambda status: bool(status.get("attempts")))
    kubectl("delete", "configmap", f"{name}-config")
    missing = f'MountVolume.SetUp failed for volume "config" : configmap "{name}-config" not found'
    case = Case(name="deleted-config", status=STARTING, reason="FailedMount", words=missing)
    patch = json.dumps({"status": STARTING})
    kubectl("patch", "pod", f"{name}-train-1", "--subresource=status", "--type=merge", "-p", patch)
    kubectl("create", "-f", "-", text=yaml.safe_dump(an_event(kubectl, "Pod", case, "FailedMount", missing)))
    reach(cluster, name, lambda status: stands(case, status), seconds=MINUTE)
    found = kubectl.run("wait", "--for=create", f"configmap/{name}-config", "--timeout=60s")
    assert found.returncode == 0, found.stderr
