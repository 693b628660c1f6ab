"""Whole lives of a job in memory, in which the operator may die before or after any one of its writes.

Any create may be refused first.
"""

import copy
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar

from sftjob_contract.names import KIND, LABEL_ATTEMPT, LABEL_STAGE, Stage
from sftjob_operator.effects.cluster import Object
from support.fakes.denials import Denial
from support.fakes.fake_cluster import FakeCluster, World, ended, running
from support.jobs.builders import JobBuilder

T = TypeVar("T")
TURNS = 16
TURN_SECONDS = 30.0
"""Longer than the backoff of the lives' jobs, so that every turn may begin an attempt."""
_LIVE = ("Pending", "Running")


class Moment(StrEnum):
    """When the operator dies."""

    BEFORE = "before"
    AFTER = "after"


class OperatorKilledError(BaseException):
    """kill -9: nothing of the operator gets to handle it."""


@dataclass(frozen=True)
class CrashPoint:
    """The operator dies right before or right after its `write`-th write, counted from 1."""

    write: int
    moment: Moment


@dataclass
class MortalCluster(FakeCluster):
    """A cluster whose client dies at one of its writes, if `crash` says so."""

    crash: CrashPoint | None = None
    denied: dict[str, Denial] = field(default_factory=dict)
    """Creates that are refused once, by `KIND/NAME`."""
    writes: list[str] = field(default_factory=list)
    """What every write was, `VERB KIND/NAME`."""
    created: Counter[str] = field(default_factory=Counter)
    """How often each object was stored."""
    most_attempts: int = 0
    """Most attempts whose train Pods were live at the same time."""

    async def create(self, body: Object) -> Object:
        kind, namespace, name = _identity(body)
        if (denial := self.denied.pop(f"{kind}/{name}", None)) is not None:
            raise denial.error(kind, namespace, name)
        return await self._write(f"create {kind}/{name}", partial(super().create, body))

    async def replace(self, body: Object) -> Object:
        return await self._write(f"replace {body['kind']}/{body['metadata']['name']}", partial(super().replace, body))

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        await self._write(f"delete {kind}/{name}", partial(super().delete, kind, namespace, name, uid))

    async def patch_status(self, namespace: str, name: str, patch: Mapping[str, Any]) -> Object:
        return await self._write(f"patch {KIND}/{name}", partial(super().patch_status, namespace, name, patch))

    async def _write(self, what: str, write: Callable[[], Awaitable[T]]) -> T:
        self.writes.append(what)
        self._die(Moment.BEFORE)
        answer = await write()
        self._die(Moment.AFTER)
        return answer

    def store(self, body: Object, event: str) -> Object:
        self.created[f"{body['kind']}/{body['metadata']['name']}"] += event == "ADDED"
        stored = super().store(body, event)
        self.most_attempts = max(self.most_attempts, len(self._attempts()))
        return stored

    def _attempts(self) -> set[str]:
        """Attempts that train."""
        pods = [body for (kind, _, _), body in self.objects.items() if kind == "Pod"]
        return {
            body["metadata"]["labels"][LABEL_ATTEMPT]
            for body in pods
            if body["metadata"]["labels"][LABEL_STAGE] == Stage.TRAIN
            and (body.get("status") or {}).get("phase", "Pending") in _LIVE
        }

    def _die(self, moment: Moment) -> None:
        if self.crash == CrashPoint(len(self.writes), moment):
            raise OperatorKilledError


class MortalWorld(World):
    """A world in which another operator goes on where one was killed."""

    def __init__(self, cluster: MortalCluster) -> None:
        self.mortal = cluster
        super().__init__(cluster)

    async def settle(self) -> None:
        try:
            await super().settle()
        except OperatorKilledError:
            await self.restart_operator()


Act = Callable[[MortalWorld], Awaitable[None]]


@dataclass(frozen=True)
class Life:
    """A job, how its Pods end (well, if nothing is said), and what its user or the cluster does in a turn."""

    job: JobBuilder
    ends: Mapping[str, Object] = field(default_factory=dict)
    acts: Mapping[int, Act] = field(default_factory=dict)
    stuck: frozenset[str] = frozenset()
    """Pods that run until they are asked to end."""


async def live(life: Life, crash: CrashPoint | None = None, denied: Mapping[str, Denial] | None = None) -> MortalWorld:
    """The world after this life."""
    world = MortalWorld(MortalCluster(crash=crash, denied=dict(denied or {})))
    await world.apply(life.job)
    for turn in range(TURNS):
        if act := life.acts.get(turn):
            await act(world)
        await _turn(world, life)
        await world.pass_time(TURN_SECONDS)
    return world


async def _turn(world: MortalWorld, life: Life) -> None:
    """Every Pod takes one step: it starts, or ends, or goes once it has ended and was asked to."""
    for body in [body for (kind, _, _), body in world.cluster.objects.items() if kind == "Pod"]:
        name, phase = body["metadata"]["name"], (body.get("status") or {}).get("phase", "Pending")
        deleting = "deletionTimestamp" in body["metadata"]
        if phase == "Pending":
            await world.pod(name, running(world.clock.elapsed))
        elif phase == "Running" and (deleting or name not in life.stuck):
            await world.pod(name, life.ends.get(name) or ended(0, seconds=world.clock.elapsed))
        elif phase not in _LIVE and deleting:
            world.cluster.remove(*_identity(body))
            await world.settle()


def final_state(world: MortalWorld) -> dict[str, Any]:
    """What is left, by kind and name: no times, no numbers of the server, no Events."""
    return {
        f"{kind}/{name}": without_times(body)
        for (kind, _, name), body in sorted(world.cluster.objects.items())
        if kind != "Event"
    }


def without_times(node: Any) -> Any:
    """JSON data without times and numbers that the server gave."""
    if isinstance(node, Mapping):
        served = ("uid", "resourceVersion", "time")
        return {
            key: without_times(value)
            for key, value in node.items()
            if key not in served and not key.endswith(("Time", "At", "Timestamp"))
        }
    return [without_times(item) for item in node] if isinstance(node, list) else copy.copy(node)


def _identity(body: Object) -> tuple[str, str, str]:
    return body["kind"], body["metadata"]["namespace"], body["metadata"]["name"]
