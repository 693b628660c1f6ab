"""The controller against an in-memory cluster: attempts of several Pods, and an operator that dies between creates."""

import pytest

from sftjob_contract.names import Stage
from sftjob_operator.effects.cluster import ForbiddenError, InvalidError, UnavailableError
from sftjob_operator.progress.identity import PodIdentity
from support.fakes.fake_cluster import World, an_outcome, ended, running
from support.jobs.builders import a_job

KEY = ("team", "demo")
NODES = 3
JOB = a_job().resources(nodes=NODES).storage(access_modes=["ReadWriteMany"])
PODS = [f"demo-train-1-{rank}" for rank in range(NODES)]


async def prepared(world: World) -> None:
    await world.apply(JOB)
    await world.pod("demo-prepare-1", running())
    await world.pod("demo-prepare-1", ended(0, an_outcome(Stage.PREPARE)))


async def training(world: World) -> None:
    await prepared(world)
    for pod in PODS:
        await world.pod(pod, running())


def train_pods(world: World) -> list[str]:
    return [name for name in world.pods() if "-train-" in name]


async def test_a_quiet_life_costs_a_service_and_one_pod_for_each_node() -> None:
    world = World()
    await training(world)
    assert world.status(KEY)["phase"] == "Running"
    for pod in reversed(PODS):
        assert world.status(KEY)["phase"] == "Running"
        await world.pod(pod, ended(0, an_outcome(Stage.TRAIN)))
    assert world.status(KEY)["phase"] == "Succeeded"
    assert [r.kind for r in world.requests("create") if r.kind != "Event"] == [
        "PersistentVolumeClaim",
        "ConfigMap",
        "Pod",
        "Service",
        *["Pod"] * NODES,
    ]
    assert [(r.verb, r.kind) for r in world.cluster.requests if r.verb not in ("create", "patch")] == [
        ("get", "ConfigMap")
    ]
    assert [(a["stage"], a["number"], a["pod"]) for a in world.status(KEY)["attempts"]] == [
        ("prepare", 1, "demo-prepare-1"),
        ("train", 1, "demo-train-1-0"),
    ]


@pytest.mark.parametrize("created", range(NODES + 2))
async def test_an_operator_that_dies_between_two_creates_completes_the_attempt(created: int) -> None:
    world = World()
    await world.apply(JOB)
    await world.pod("demo-prepare-1", running())
    world.set_pod("demo-prepare-1", ended(0, an_outcome(Stage.PREPARE)))
    create, done = world.cluster.create, []

    async def dies(body: dict) -> dict:
        if len(done) == created:
            raise UnavailableError("the operator dies here")
        done.append(body["metadata"]["name"])
        return await create(body)

    world.cluster.create = dies
    await world.settle()
    assert done == ["demo-train", *PODS][:created]
    world.cluster.create = create
    await world.restart_operator()
    assert train_pods(world) == PODS
    await world.pass_time(10)
    assert [a["number"] for a in world.status(KEY)["attempts"]] == [1, 1]


async def test_a_quota_in_the_middle_leaves_one_attempt_that_is_completed_later() -> None:
    world = World()
    await world.apply(JOB)
    await world.pod("demo-prepare-1", running())
    create = world.cluster.create

    async def full(body: dict) -> dict:
        if body["metadata"]["name"] == PODS[2]:
            raise ForbiddenError("exceeded quota")
        return await create(body)

    world.cluster.create = full
    await world.pod("demo-prepare-1", ended(0, an_outcome(Stage.PREPARE)))
    for pod in PODS[:2]:
        await world.pod(pod, running())
    await world.pass_time(10)
    assert train_pods(world) == PODS[:2]
    (said,) = [c for c in world.status(KEY)["conditions"] if c["type"] == "Running"]
    assert (said["reason"], said["message"]) == ("CreationRefused", "exceeded quota")
    world.cluster.create = create
    await world.pass_time(300)
    assert train_pods(world) == PODS
    assert [r.name for r in world.requests("delete")] == []


async def test_a_pod_that_is_called_invalid_fails_the_job_and_ends_those_that_were_created() -> None:
    world = World()
    await world.apply(JOB)
    await world.pod("demo-prepare-1", running())
    create = world.cluster.create

    async def picky(body: dict) -> dict:
        if body["metadata"]["name"] == PODS[2]:
            cause = ("spec.hostname", f'Invalid value: "{body["spec"]["hostname"]}": must be a label')
            raise InvalidError(f'Pod "{PODS[2]}" is invalid: {cause[0]}: {cause[1]}', (cause,))
        return await create(body)

    world.cluster.create = picky
    await world.pod("demo-prepare-1", ended(0, an_outcome(Stage.PREPARE)))
    assert world.status(KEY)["phase"] == "Failed"
    assert train_pods(world) == []


async def test_one_pod_that_dies_takes_the_others_with_it_and_the_next_attempt_waits_for_all() -> None:
    world = World()
    await training(world)
    await world.pod(PODS[1], ended(137))
    assert [r.name for r in world.requests("delete")] == [PODS[0], PODS[2]]
    await world.pod_leaves(PODS[0], ended(75))
    await world.pass_time(1000)
    assert world.live_train_pods() == [PODS[2]]
    await world.pod_leaves(PODS[2], ended(143, seconds=1000))
    await world.pass_time(10)
    assert [(a.get("reason"), a.get("exitCode")) for a in world.status(KEY)["attempts"][1:]] == [
        ("Killed", 137),
        (None, None),
    ]
    assert world.live_train_pods() == [f"demo-train-2-{rank}" for rank in range(NODES)]


async def test_a_restarted_operator_finds_the_attempt_as_it_was() -> None:
    world = World()
    await training(world)
    before = world.status(KEY)
    world.cluster.requests.clear()
    await world.restart_operator()
    asked = {(r.verb, r.kind) for r in world.cluster.requests}
    assert asked == {("list", "SFTJob"), ("list", "Pod"), ("get", "ConfigMap")}  # whose CA may be another's
    assert world.status(KEY) == before


async def test_only_the_pod_of_rank_0_is_believed_to_report() -> None:
    world = World()
    await training(world)
    uids = {name: world.cluster.objects["Pod", "team", name]["metadata"]["uid"] for name in PODS}
    told = [
        world.controller.training_attempt(KEY, PodIdentity(namespace="team", name=name, uid=uids[name]))
        for name in PODS
    ]
    assert told == [1, None, None]


async def test_a_pod_that_a_watch_has_lost_is_looked_for_before_the_others_are_ended() -> None:
    world = World()
    await training(world)
    body = world.cluster.objects["Pod", "team", PODS[1]]
    world.controller._cache.pods.drop(body)
    world.controller.queue.add(KEY)
    await world.settle()
    assert [r.name for r in world.requests("get", "Pod")] == [PODS[1]]
    assert world.requests("delete") == []
