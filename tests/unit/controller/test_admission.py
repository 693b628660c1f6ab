"""Whatever admission answers, a job waits and says why; only a first attempt that is itself invalid ends."""

import logging
from typing import Any

import pytest

from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import Stage
from sftjob_operator.effects.cluster import ClusterError, UnavailableError
from sftjob_operator.effects.kube import _error
from support.fakes.denials import DENIALS, DRAINING, Denial, denials_of
from support.fakes.fake_cluster import World, an_outcome, ended, running
from support.jobs.builders import a_job

KEY = ("team", "demo")


def condition(world: World, type_: str) -> dict[str, Any]:
    (found,) = [c for c in world.status(KEY)["conditions"] if c["type"] == type_]
    return found


async def prepared(world: World) -> None:
    await world.apply(a_job().failure_policy(max_retries=3, backoff_seconds=1))
    await world.pod("demo-prepare-1", running())
    await world.pod("demo-prepare-1", ended(0, an_outcome(Stage.PREPARE)))


def deny(world: World, verb: str, kind: str, error: ClusterError, times: int = 1000) -> None:
    for _ in range(times):
        world.cluster.fail(verb, kind, error)


async def waits_and_goes_on(world: World, kind: str, denial: Denial, name: str) -> None:
    """The job says what is in its way within seconds, is never ended, and goes on once it is gone."""
    words = denial.error(kind, "team", name)
    await world.pass_time(5)
    told = [condition(world, type_) for type_ in ("Prepared", "Running", "Succeeded")]
    assert str(words) in " ".join(c["message"] for c in told), told
    assert {"CreationRefused", "QuotaExceeded", "ServerUnavailable"} & {c["reason"] for c in told}
    for _ in range(30):
        await world.pass_time(300)
    assert condition(world, "Succeeded")["status"] == "Unknown"
    events = [
        r.body
        for r in world.requests("create", "Event")
        if r.body["reason"] in ("CreationRefused", "QuotaExceeded", "ServerUnavailable")
    ]
    assert 1 <= len({event["metadata"]["name"] for event in events}) <= 2
    world.cluster.failures.clear()
    await world.pass_time(300)
    assert name in world.pods() or kind != "Pod"


@pytest.mark.parametrize("denial", [*DENIALS, *DRAINING], ids=lambda denial: denial.what)
@pytest.mark.parametrize("kind", ["PersistentVolumeClaim", "ConfigMap", "Pod"])
async def test_no_denial_ends_a_new_job(kind: str, denial: Denial) -> None:
    if not denial.fits(kind):
        return
    world = World()
    name = {"PersistentVolumeClaim": "demo", "ConfigMap": "demo-config", "Pod": "demo-prepare-1"}[kind]
    deny(world, "create", kind, denial.error(kind, "team", name))
    await world.apply(a_job())
    await waits_and_goes_on(world, kind, denial, name)
    assert world.status(KEY)["phase"] == "Pending"
    assert world.pods() == ["demo-prepare-1"]


@pytest.mark.parametrize("denial", [*denials_of("Pod"), *DRAINING], ids=lambda denial: denial.what)
async def test_no_denial_ends_a_healthy_run(denial: Denial) -> None:
    world = World()
    await prepared(world)
    await world.pod("demo-train-1", running())
    deny(world, "create", "Pod", denial.error("Pod", "team", "demo-train-2"))
    await world.pod("demo-train-1", ended(ExitCode.RETRY, seconds=5))
    await world.pass_time(120)
    await waits_and_goes_on(world, "Pod", denial, "demo-train-2")


def an_invalid(message: str, field: str) -> ClusterError:
    details = {"causes": [{"reason": "FieldValueInvalid", "message": message, "field": field}]}
    text = f'Pod "demo-prepare-1" is invalid: {field}: {message}'
    return _error(422, {"reason": "Invalid", "message": text, "details": details}, "POST")


SELECTOR = a_job().scheduling(node_selector={"zone": "a b"})
INVALID = {
    "a value of the spec": (an_invalid('Invalid value: "a b": a valid label must be', "spec.nodeSelector"), True),
    "a value that something else has set": (
        an_invalid('Invalid value: "c d": a valid label', "spec.nodeSelector"),
        False,
    ),
    "a field that something else has set": (an_invalid('Invalid value: "x": must be', "spec.schedulerName"), False),
    "a container that something else has added": (
        an_invalid('Invalid value: "a b": must be', "spec.containers[3].image"),
        False,
    ),
    "a default beside the request": (
        an_invalid(
            'Invalid value: "4": must be less than or equal to cpu limit', "spec.containers[0].resources.requests"
        ),
        False,
    ),
    "a required value": (an_invalid("Required value", "spec.containers[0].image"), False),
    "no cause": (_error(422, {"reason": "Invalid", "message": 'Pod "demo-prepare-1" is invalid: x'}, "POST"), False),
    "another object": (_error(422, {"reason": "Invalid", "message": 'Pod "x" is invalid: y'}, "POST"), False),
}


@pytest.mark.parametrize(("error", "final"), INVALID.values(), ids=INVALID)
async def test_only_values_that_the_operator_rendered_end_a_first_attempt(error: ClusterError, final: bool) -> None:
    world = World()
    deny(world, "create", "Pod", error, times=1)
    await world.apply(SELECTOR)
    assert world.status(KEY)["phase"] == ("Failed" if final else "Pending")
    assert str(error) in condition(world, "Succeeded" if final else "Prepared")["message"]


async def test_a_later_attempt_is_never_invalid_for_good() -> None:
    world = World()
    await world.apply(SELECTOR.failure_policy(max_retries=3, backoff_seconds=1))
    await world.pod("demo-prepare-1", running())
    deny(world, "create", "Pod", an_invalid('Invalid value: "a b": a valid label must be', "spec.nodeSelector"))
    await world.pod("demo-prepare-1", ended(137, seconds=5))
    await world.pass_time(3600)
    assert world.status(KEY)["phase"] != "Failed"
    assert condition(world, "Prepared")["reason"] == "CreationRefused"


async def test_a_deadline_bounds_the_wait_for_admission() -> None:
    world = World()
    deny(world, "create", "Pod", DENIALS[0].error("Pod", "team", "demo-prepare-1"))
    await world.apply(a_job().set("deadlineSeconds", 3600))
    await world.pass_time(3500)
    assert world.status(KEY)["phase"] == "Pending"
    await world.pass_time(100)
    assert world.status(KEY)["phase"] == "Failed"
    assert condition(world, "Succeeded")["reason"] == "DeadlineExceeded"


WEBHOOK = 'Internal error occurred: failed calling webhook "w": context deadline exceeded'
REFUSED_DELETES = {
    "a policy": (_error(422, {"reason": "Invalid", "message": "denied request: keep"}, "DELETE"), "DeletionRefused"),
    "missing rights": (_error(403, {"message": 'pods "demo-train-1" is forbidden'}, "DELETE"), "DeletionRefused"),
    "a webhook that does not answer": (UnavailableError(WEBHOOK), "ServerUnavailable"),
}


@pytest.mark.parametrize(("error", "reason"), REFUSED_DELETES.values(), ids=REFUSED_DELETES)
async def test_a_pod_that_cannot_be_deleted_is_said_with_the_servers_words(error: ClusterError, reason: str) -> None:
    world = World()
    await prepared(world)
    await world.pod("demo-train-1", running())
    deny(world, "delete", "Pod", error)
    await world.change(KEY, suspend=True)
    await world.pass_time(5)
    for type_ in ("Running", "Succeeded"):
        assert condition(world, type_)["reason"] == reason
        assert f"could not delete Pod demo-train-1: {error}" in condition(world, type_)["message"]
    assert condition(world, "Running")["status"] == "True"
    world.cluster.failures.clear()
    await world.pass_time(300)
    await world.pod("demo-train-1", ended(75, seconds=400))
    await world.pass_time(10)
    assert world.status(KEY)["phase"] == "Suspended"


async def test_a_server_that_is_back_at_once_leaves_no_word() -> None:
    world = World()
    world.cluster.fail("create", "Pod", UnavailableError(WEBHOOK))
    await world.apply(a_job())
    await world.pass_time(1)
    assert len(world.requests("patch")) == 1
    assert condition(world, "Prepared")["reason"] == "Preparing"


async def test_a_refusal_is_logged_once_however_often_it_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    deny(world, "create", "Pod", DENIALS[0].error("Pod", "team", "demo-prepare-1"))
    await world.apply(a_job())
    for _ in range(30):
        await world.pass_time(300)
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1
