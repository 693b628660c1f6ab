"""Why a Pod does not start, also where only an Event or its claim says so: asked for seldom, told once per cause."""

from typing import Any

import pytest

from sftjob_contract.names import KIND, Stage
from sftjob_operator.effects.cluster import ForbiddenError, Object
from sftjob_operator.problem_lookup import LOOKUP_INTERVAL_SECONDS
from sftjob_operator.reconcile.snapshot import SETTLE_SECONDS
from support.fakes.fake_cluster import (
    INTERVAL_SECONDS,
    World,
    an_outcome,
    ended,
    moment,
    running,
    unschedulable,
    waiting,
)
from support.jobs.builders import a_job

KEY = ("team", "demo")
UNBOUND = "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims. preemption: 0/3 are available."
NO_GPU = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available: 3 No victims."
MOUNT = 'MountVolume.SetUp failed for volume "config" : configmap "demo-config" not found'


def condition(world: World, type_: str = "Prepared") -> tuple[str, str]:
    (found,) = [c for c in world.status(KEY)["conditions"] if c["type"] == type_]
    return found["reason"], found["message"]


def told(world: World) -> list[tuple[str, str]]:
    bodies = [body for (kind, _, _), body in world.cluster.objects.items() if kind == "Event"]
    return [(b["type"], b["reason"]) for b in bodies if b["involvedObject"].get("kind") == KIND]


def uid_of(world: World, kind: str, name: str) -> str:
    return str(world.cluster.objects[kind, "team", name]["metadata"]["uid"])


def happens(world: World, kind: str, name: str, type_: str, reason: str, message: str) -> None:
    """A kubelet, scheduler or provisioner posts an Event."""
    time = moment(world.clock.elapsed)
    event: Object = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{name}.{len(world.cluster.objects)}", "namespace": "team", "uid": "e"},
        "involvedObject": {"kind": kind, "name": name, "uid": uid_of(world, kind, name)},
        "type": type_,
        "reason": reason,
        "message": message,
        "lastTimestamp": time,
    }
    world.cluster.objects["Event", "team", event["metadata"]["name"]] = event


async def a_pending_pod(world: World, status: Object | None = None, **storage: Any) -> None:
    job = a_job().storage(**storage) if storage else a_job()
    await world.apply(job)
    if status is not None:
        await world.pod("demo-prepare-1", status)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("FailedMount", MOUNT.replace("demo-config", "ca-bundle")),
        ("FailedMount", 'MountVolume.SetUp failed for volume "token" : secret "hub" not found'),
        ("FailedAttachVolume", 'Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) demo-train-1'),
        ("FailedCreatePodSandBox", "Failed to create pod sandbox: rpc error: plugin type=calico failed (add)"),
    ],
)
async def test_what_only_an_event_says_is_in_the_conditions_within_a_minute(reason: str, words: str) -> None:
    world = World()
    await a_pending_pod(world, waiting("ContainerCreating"))
    happens(world, "Pod", "demo-prepare-1", "Normal", "Scheduled", "Successfully assigned")
    await world.pass_time(5)
    happens(world, "Pod", "demo-prepare-1", "Warning", reason, words)
    await world.pass_time(30)
    assert condition(world) == (reason, f"Pod demo-prepare-1 waits: {reason}: {words}.")
    assert condition(world, "Succeeded")[0] == reason
    assert told(world) == [("Warning", reason)]
    await world.pod("demo-prepare-1", running())
    assert condition(world)[0] == "Preparing"


async def test_events_are_read_seldom_and_only_about_pods_that_nothing_explains() -> None:
    world = World()
    await a_pending_pod(world, waiting("ContainerCreating"))
    await world.pass_time(SETTLE_SECONDS - 1)
    assert world.requests("list", "Event") == []
    for _ in range(10 * LOOKUP_INTERVAL_SECONDS):
        await world.pass_time(1)
    assert 8 <= len(world.requests("list", "Event")) <= 11
    asked = len(world.requests("list", "Event"))
    await world.pod("demo-prepare-1", waiting("ErrImagePull", "no such manifest"))
    await world.pass_time(300)
    assert len(world.requests("list", "Event")) == asked


async def test_a_warning_that_something_went_on_since_is_no_obstacle() -> None:
    world = World()
    await a_pending_pod(world, waiting("ContainerCreating"))
    happens(world, "Pod", "demo-prepare-1", "Warning", "FailedMount", "failed to sync configmap cache")
    await world.pass_time(3)
    happens(world, "Pod", "demo-prepare-1", "Normal", "Pulling", 'Pulling image "trainer"')
    await world.pass_time(60)
    assert condition(world)[0] == "Preparing"
    assert told(world) == []


async def test_events_that_may_not_be_read_change_nothing() -> None:
    world = World()
    await a_pending_pod(world, waiting("ContainerCreating"))
    world.cluster.fail("list", "Event", ForbiddenError("events is forbidden"))
    await world.pass_time(20)
    assert condition(world)[0] == "Preparing"


async def test_a_run_config_that_was_deleted_is_made_again_for_the_pod_that_waits_for_it() -> None:
    world = World()
    await a_pending_pod(world, waiting("ContainerCreating"))
    world.cluster.remove("ConfigMap", "team", "demo-config")
    happens(world, "Pod", "demo-prepare-1", "Warning", "FailedMount", MOUNT)
    await world.pass_time(30)
    assert ("ConfigMap", "team", "demo-config") in world.cluster.objects


async def test_a_run_config_that_was_deleted_is_made_again_for_the_next_attempt() -> None:
    world = World()
    await world.apply(a_job())
    await world.pod("demo-prepare-1", ended(0, an_outcome(Stage.PREPARE)))
    await world.pod("demo-train-1", running())
    world.cluster.remove("ConfigMap", "team", "demo-config")
    await world.pod("demo-train-1", ended(137))
    await world.pass_time(60)
    await world.pod("demo-train-2", waiting("ContainerCreating"))
    happens(world, "Pod", "demo-train-2", "Warning", "FailedMount", MOUNT)
    await world.pass_time(30)
    assert ("ConfigMap", "team", "demo-config") in world.cluster.objects


async def test_a_claim_that_was_just_created_is_no_reason_to_warn() -> None:
    world = World()
    await a_pending_pod(world, unschedulable(UNBOUND))
    assert (condition(world)[0], told(world)) == ("Preparing", [])
    await world.pass_time(SETTLE_SECONDS / 2)
    await world.pod("demo-prepare-1", running())
    await world.pass_time(60)
    assert told(world) == [("Normal", "AttemptStarted")]


async def test_each_new_cause_is_one_event_however_the_counts_change() -> None:
    world = World()
    await a_pending_pod(world, unschedulable(UNBOUND))
    await world.pass_time(60)
    assert told(world) == [("Warning", "Unschedulable")]
    for nodes in (3, 4, 3, 5):
        await world.pod("demo-prepare-1", unschedulable(NO_GPU.replace("3", str(nodes))))
        await world.pass_time(INTERVAL_SECONDS)
    assert told(world) == [("Warning", "Unschedulable")] * 2
    await world.pod("demo-prepare-1", unschedulable(UNBOUND))
    await world.pass_time(60)
    await world.pod("demo-prepare-1", unschedulable(NO_GPU))
    await world.pass_time(60)
    assert told(world) == [("Warning", "Unschedulable")] * 2
    assert "Insufficient nvidia.com/gpu" in condition(world)[1]
    assert "Request less in spec.resources" in condition(world)[1]


async def test_a_pending_claim_is_told_in_its_own_words() -> None:
    world = World()
    await a_pending_pod(world, unschedulable(UNBOUND), storage_class_name="fast-ssd")
    words = 'storageclass.storage.k8s.io "fast-ssd" not found'
    happens(world, "PersistentVolumeClaim", "demo", "Warning", "ProvisioningFailed", words)
    await world.pass_time(30)
    reason, message = condition(world)
    assert reason == "Unschedulable"
    assert f"PersistentVolumeClaim demo is Pending with ProvisioningFailed: {words}." in message
    assert "Create the StorageClass fast-ssd" in message
    assert "spec.resources" not in message


@pytest.mark.parametrize("type_", ["Normal", "Warning"])
async def test_a_claim_without_a_storage_class_is_told(type_: str) -> None:
    world = World()
    await a_pending_pod(world, unschedulable(UNBOUND))
    words = "no persistent volumes available for this claim and no storage class is set"
    happens(world, "PersistentVolumeClaim", "demo", type_, "FailedBinding", words)
    await world.pass_time(30)
    assert words in condition(world)[1]
    assert "a default StorageClass" in condition(world)[1]


async def test_a_volume_that_is_being_made_is_told_and_no_reason_to_warn() -> None:
    world = World()
    await a_pending_pod(world)
    words = "Waiting for a volume to be created either by the external provisioner 'ebs.csi.aws.com' or manually"
    happens(world, "PersistentVolumeClaim", "demo", "Normal", "ExternalProvisioning", words)
    await world.pass_time(30)
    await world.pass_time(INTERVAL_SECONDS)
    assert condition(world)[0] == "Preparing"
    assert words in condition(world)[1]
    assert told(world) == []


async def test_a_claim_that_does_not_exist_is_told_with_what_to_change() -> None:
    world = World()
    missing = '0/1 nodes are available: persistentvolumeclaim "typo" not found. preemption: 0/1 nodes are available.'
    await a_pending_pod(world, unschedulable(missing), existing_claim="typo")
    await world.pass_time(30)
    reason, message = condition(world)
    assert reason == "Unschedulable"
    assert "PersistentVolumeClaim typo does not exist." in message
    assert "Create the claim, or delete this SFTJob and create it again with a storage.existingClaim" in message
    assert "spec.resources" not in message


async def test_a_volume_that_was_bound_where_no_gpu_is_is_told_with_the_ways_out() -> None:
    world = World()
    await world.apply(a_job())
    await world.pod("demo-prepare-1", ended(0, an_outcome(Stage.PREPARE)))
    world.cluster.objects["PersistentVolumeClaim", "team", "demo"]["status"] = {"phase": "Bound"}
    conflict = "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) had volume node affinity conflict."
    await world.pod("demo-train-1", unschedulable(conflict))
    await world.pass_time(30)
    reason, message = condition(world, "Running")
    assert reason == condition(world, "Succeeded")[0] == "Unschedulable"
    assert (
        "had volume node affinity conflict. The volume is bound where no node satisfies the Pod's requests." in message
    )
    for way in ("scheduling.nodeSelector", "WaitForFirstConsumer", "ReadWriteMany"):
        assert way in message


async def test_a_pull_that_backs_off_between_failures_is_one_event() -> None:
    world = World()
    await a_pending_pod(world, waiting("ErrImagePull", "rpc error: not found"))
    for _ in range(3):
        await world.pass_time(INTERVAL_SECONDS)
        await world.pod("demo-prepare-1", waiting("ImagePullBackOff", "Back-off pulling image"))
        await world.pass_time(INTERVAL_SECONDS)
        await world.pod("demo-prepare-1", waiting("ErrImagePull", "rpc error: not found"))
    assert told(world) == [("Warning", "ImagePullFailed")]


async def test_a_refusal_is_one_event_for_each_cause_and_a_quota_has_its_own_reason() -> None:
    world = World()
    world.cluster.fail(
        "create", "Pod", ForbiddenError("pods is forbidden: exceeded quota: q, used: pods=3, limited: 3")
    )
    world.cluster.fail(
        "create", "Pod", ForbiddenError("pods is forbidden: exceeded quota: q, used: pods=4, limited: 3")
    )
    await world.apply(a_job())
    assert condition(world)[0] == condition(world, "Succeeded")[0] == "QuotaExceeded"
    await world.pass_time(6)
    assert told(world) == [("Warning", "QuotaExceeded")]


async def test_a_stop_that_saved_its_checkpoint_is_no_warning() -> None:
    world = World()
    await world.apply(a_job())
    await world.pod("demo-prepare-1", ended(0, an_outcome(Stage.PREPARE)))
    saved = an_outcome(Stage.TRAIN, 75, reason="Interrupted", message="Saved checkpoint-40.")
    await world.pod("demo-train-1", ended(75, saved))
    await world.pass_time(60)
    assert ("Normal", "Interrupted") in told(world)
    assert [reason for type_, reason in told(world) if type_ == "Warning"] == []


async def test_the_pod_of_a_job_that_ended_is_deleted_when_a_sidecar_keeps_it_running() -> None:
    world = World()
    await world.apply(a_job())
    await world.pod("demo-prepare-1", ended(0, an_outcome(Stage.PREPARE)))
    mesh = {"name": "istio-proxy", "state": {"running": {"startedAt": moment(0)}}}
    status = ended(0, an_outcome(Stage.TRAIN))
    status |= {"phase": "Running", "containerStatuses": [mesh, *status["containerStatuses"]]}
    await world.pod("demo-train-1", status)
    assert world.status(KEY)["phase"] == "Succeeded"
    assert [request.name for request in world.requests("delete", "Pod")] == []
    await world.restart_operator()
    await world.pass_time(60)
    assert [request.name for request in world.requests("delete", "Pod")] == ["demo-train-1"]
