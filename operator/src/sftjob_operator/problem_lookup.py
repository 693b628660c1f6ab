"""Queries to the API server for why Pods do not start: rare, and only for Pods whose status does not show it."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sftjob_operator.effects.children import find
from sftjob_operator.effects.cluster import Cluster, ClusterError
from sftjob_operator.reconcile import (
    PodProblem,
    PodView,
    is_unexplained,
    problem_from_claim,
    problem_from_events,
    seconds_until_unexplained,
)
from sftjob_operator.runtime.logs import LogDeduplicator
from sftjob_operator.runtime.workqueue import Clock, Key

LOOKUP_INTERVAL_SECONDS: Final = 25
MOST_CLAIMS: Final = 4
"""Maximum volume claims of a Pod that are queried."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    """`scheduled`: the scheduler had not rejected the Pod; else its claims were queried."""

    time: float
    scheduled: bool
    problem: PodProblem | None


class ProblemLookup:
    """Cached answers, by job and UID of the Pod."""

    def __init__(self, cluster: Cluster, clock: Clock) -> None:
        self._cluster = cluster
        self._clock = clock
        self._answers: dict[Key, dict[str, _Answer]] = {}
        self._log_dedup = LogDeduplicator(clock.monotonic)

    async def find(self, key: Key, pods: Iterable[PodView], now: datetime) -> dict[str, PodProblem]:
        """Return what prevents `pods` from starting, by UID; query the server if there is no recent answer."""
        known, answers = self._answers.pop(key, {}), {}
        for pod in pods:
            if is_unexplained(pod, now):
                answers[pod.uid] = await self._answer(key[0], pod, known.get(pod.uid))
        if answers:
            self._answers[key] = answers
        return {uid: answer.problem for uid, answer in answers.items() if answer.problem is not None}

    def seconds_until_next(self, key: Key, pods: Iterable[PodView], now: datetime) -> float | None:
        """Return the seconds until the job has to be checked again; None: only after an event."""
        pending = (pod for pod in pods if pod.live and not pod.deleting)
        new = [seconds for pod in pending if (seconds := seconds_until_unexplained(pod, now)) > 0]
        asked = [answer.time for answer in self._answers.get(key, {}).values()]
        again = [max(0.0, time + LOOKUP_INTERVAL_SECONDS - self._clock.monotonic()) for time in asked]
        return min((*new, *again), default=None)

    def forget(self, key: Key) -> None:
        """Drop the answers about a job's Pods."""
        self._answers.pop(key, None)

    async def _answer(self, namespace: str, pod: PodView, known: _Answer | None) -> _Answer:
        now, scheduled = self._clock.monotonic(), pod.unschedulable is None
        if known is not None and known.scheduled is scheduled and now - known.time < LOOKUP_INTERVAL_SECONDS:
            return known
        try:
            return _Answer(time=now, scheduled=scheduled, problem=await self._ask(namespace, pod))
        except ClusterError as error:
            if self._log_dedup.is_new(pod.uid, str(error)):
                log.info("cannot look up why Pod %s/%s does not start: %s", namespace, pod.name, error)
            problem = known.problem if known is not None else None
            return _Answer(time=now, scheduled=scheduled, problem=problem)

    async def _ask(self, namespace: str, pod: PodView) -> PodProblem | None:
        """The scheduler's message needs no second source, except for the volume claims that it names."""
        if pod.unschedulable is None:
            problem = problem_from_events(await self._cluster.events_about(namespace, pod.uid))
            if problem is not None or pod.node is not None:
                return problem
        for name in pod.claims[:MOST_CLAIMS]:
            claim = await find(self._cluster, "PersistentVolumeClaim", namespace, name)
            about = () if claim is None else await self._cluster.events_about(namespace, claim["metadata"]["uid"])
            if (problem := problem_from_claim(name, claim, about)) is not None:
                return problem
        return None
