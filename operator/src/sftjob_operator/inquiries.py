"""Asking the API server why Pods do not start: seldom, and only about those whose status does not show it."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sftjob_operator.effects.children import find
from sftjob_operator.effects.cluster import Cluster, ClusterError
from sftjob_operator.logs import LogPace
from sftjob_operator.reconcile import (
    PodView,
    Trouble,
    is_unexplained,
    seconds_until_unexplained,
    told_by_claim,
    told_by_events,
)
from sftjob_operator.workqueue import Clock, Key

ASK_AGAIN_SECONDS: Final = 25
MOST_CLAIMS: Final = 4
"""Most volume claims of a Pod that are looked at."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    """`scheduled`: the scheduler had not refused the Pod; else its claims were asked about."""

    asked: float
    scheduled: bool
    trouble: Trouble | None


class Inquiries:
    """The answers so far, by job and uid of the Pod."""

    def __init__(self, cluster: Cluster, clock: Clock) -> None:
        self._cluster = cluster
        self._clock = clock
        self._answers: dict[Key, dict[str, _Answer]] = {}
        self._log_pace = LogPace(clock.monotonic)

    async def obstacles(self, key: Key, pods: Iterable[PodView], now: datetime) -> dict[str, Trouble]:
        """What keeps `pods` from starting, by uid; the server is asked where no recent answer is known."""
        known, answers = self._answers.pop(key, {}), {}
        for pod in pods:
            if is_unexplained(pod, now):
                answers[pod.uid] = await self._answer(key[0], pod, known.get(pod.uid))
        if answers:
            self._answers[key] = answers
        return {uid: answer.trouble for uid, answer in answers.items() if answer.trouble is not None}

    def seconds_until_next(self, key: Key, pods: Iterable[PodView], now: datetime) -> float | None:
        """When to look at the job again for this; None: not before something happens."""
        pending = (pod for pod in pods if pod.live and not pod.deleting)
        new = [seconds for pod in pending if (seconds := seconds_until_unexplained(pod, now)) > 0]
        asked = [answer.asked for answer in self._answers.get(key, {}).values()]
        again = [max(0.0, time + ASK_AGAIN_SECONDS - self._clock.monotonic()) for time in asked]
        return min((*new, *again), default=None)

    def forget(self, key: Key) -> None:
        """Drop the answers about a job's Pods."""
        self._answers.pop(key, None)

    async def _answer(self, namespace: str, pod: PodView, known: _Answer | None) -> _Answer:
        now, scheduled = self._clock.monotonic(), pod.unschedulable is None
        if known is not None and known.scheduled is scheduled and now - known.asked < ASK_AGAIN_SECONDS:
            return known
        try:
            return _Answer(asked=now, scheduled=scheduled, trouble=await self._ask(namespace, pod))
        except ClusterError as error:
            if self._log_pace.is_news(pod.uid, str(error)):
                log.info("cannot ask why Pod %s/%s does not start: %s", namespace, pod.name, error)
            trouble = known.trouble if known is not None else None
            return _Answer(asked=now, scheduled=scheduled, trouble=trouble)

    async def _ask(self, namespace: str, pod: PodView) -> Trouble | None:
        """The scheduler's own words need no second source, but for the volume claims that they are about."""
        if pod.unschedulable is None:
            trouble = told_by_events(await self._cluster.events_about(namespace, pod.uid))
            if trouble is not None or pod.node is not None:
                return trouble
        for name in pod.claims[:MOST_CLAIMS]:
            claim = await find(self._cluster, "PersistentVolumeClaim", namespace, name)
            about = () if claim is None else await self._cluster.events_about(namespace, claim["metadata"]["uid"])
            if (trouble := told_by_claim(name, claim, about)) is not None:
                return trouble
        return None
