"""Known state of the jobs: their objects and Pods as last observed, and how deleted Pods ended."""

import logging
from collections.abc import AsyncIterator, Container, Iterator, Mapping
from typing import Any, Final

from sftjob_contract.names import KIND, LABEL_JOB
from sftjob_operator.api import SFTJob
from sftjob_operator.effects.cache import Cache
from sftjob_operator.effects.children import find
from sftjob_operator.effects.cluster import (
    Cluster,
    ClusterError,
    ForbiddenError,
    NotFoundError,
    Object,
    UnrecognizedError,
)
from sftjob_operator.progress.identity import PodIdentity
from sftjob_operator.reconcile import (
    PodPhase,
    PodView,
    awaits_cleanup,
    is_finished,
    owner_uid,
    pod_job,
    pod_names,
    pod_view,
)
from sftjob_operator.runtime.workqueue import Key

_KEPT_METADATA: Final = (
    "name", "namespace", "uid", "generation", "resourceVersion", "creationTimestamp", "deletionTimestamp",
    "labels",
)  # fmt: skip

_KEPT_STATUS: Final = (
    "phase", "method", "startTime", "completionTime", "conditions", "progress", "checkpoints", "attempts",
)  # fmt: skip
"""Fields for metrics that are kept of an ended job."""

log = logging.getLogger(__name__)
Body = Mapping[str, Any]


class ClusterCache:
    """The watch caches of jobs and Pods, and the final state of deleted Pods."""

    def __init__(self, cluster: Cluster, namespaces: tuple[str, ...] = ()) -> None:
        """Cache the objects of `namespaces`, or of the whole cluster if it is empty."""
        self._cluster = cluster
        self._namespaces = namespaces
        self.unserved: dict[str, ClusterError] = {}
        """Namespaces that the server refuses to list, such as deleted ones, and its message."""
        self.jobs: Cache[Object] = Cache(stored_job, job_key)
        self.pods: Cache[PodView] = Cache(pod_view, pod_job)
        self._final_states: dict[str, dict[str, PodView]] = {}
        """By the UID of the job, then by the name of the Pod."""

    def job(self, key: Key) -> Object | None:
        """Return the job as last observed."""
        return next(iter(self.jobs.get(key)), None)

    def all_jobs(self) -> Iterator[Object]:
        """Return every job as last observed."""
        for key in self.jobs.jobs():
            yield from self.jobs.get(key)

    def pod_gone(self, body: Body) -> Key | None:
        """Drop a deleted Pod; only this event may show how it ended, so that is kept until it is recorded."""
        key = self.pods.drop(body)
        if key is not None:
            view = self.pods.final_state(body)
            if view is not None and not view.live and view.owner_uid is not None:
                self._final_states.setdefault(view.owner_uid, {})[view.name] = view
        return key

    def training_attempt(self, key: Key, identity: PodIdentity) -> int | None:
        """Return the attempt that a Pod runs for a job, or None if it is not the live train Pod of that very job."""
        job = self.job(key)
        if job is None or identity.namespace != key[0]:
            return None
        for pod in self._pods_of(key, job["metadata"]["uid"]):
            if (pod.name, pod.uid) == (identity.name, identity.uid) and pod.is_training and pod.rank == 0:
                return pod.attempt
        return None

    def newest_pod(self, key: Key) -> tuple[int, str] | None:
        """Return attempt and name of the newest Pod of a job; None before the first."""
        if (body := self.job(key)) is None:
            return None
        own = self._pods_of(key, body["metadata"]["uid"])
        pods = [(pod.stage.place, pod.attempt, -pod.rank, pod.name) for pod in own]
        if pods:
            _, attempt, _, pod = max(pods)
            return attempt, pod
        recorded = (body.get("status") or {}).get("attempts")
        return (recorded[-1]["number"], recorded[-1]["pod"]) if recorded else None

    def late_pods(self, key: Key, uid: str) -> tuple[PodView, ...]:
        """Return live Pods of a job whose deletion has not been requested."""
        return tuple(pod for pod in self._pods_of(key, uid) if pod.live and not pod.deleting)

    async def resync(self) -> tuple[Key, ...]:
        """List all jobs and Pods; return the jobs that may need work.

        Several namespaces are independent: the known state of one that the server refuses to list does not change.

        Raises:
            NotFoundError: SFTJobs are not served at all.
            ClusterError: the server does not answer, or refuses to list the whole cluster.
        """
        if not self._namespaces:
            await self._list(None)
        for namespace in self._namespaces:
            await self._list_alone(namespace)
        if self._namespaces and all(isinstance(self.unserved.get(name), NotFoundError) for name in self._namespaces):
            raise self.unserved[self._namespaces[0]]
        return tuple(key for key in self.jobs.jobs() if not self._is_settled(key) or self.pods.get(key))

    def _is_settled(self, key: Key) -> bool:
        """Whether a job has ended and needs no more work."""
        body = self.job(key)
        return body is not None and "spec" not in body

    async def _unsettled(self, pods: AsyncIterator[Object]) -> AsyncIterator[Object]:
        """Return `pods` without ended ones of settled jobs: there may be thousands."""
        async for body in pods:
            if self._matters(body):
                yield body

    def _matters(self, pod: Body) -> bool:
        key = pod_job(pod)
        ended = (pod.get("status") or {}).get("phase") in (PodPhase.SUCCEEDED, PodPhase.FAILED)
        return key is not None and not (ended and self._is_settled(key))

    async def _list_alone(self, namespace: str) -> None:
        try:
            await self._list(namespace)
        except (ForbiddenError, NotFoundError) as error:
            if namespace not in self.unserved:
                log.warning("namespace %s is not served, because the server refuses to list it: %s", namespace, error)
            self.unserved[namespace] = error
        else:
            if self.unserved.pop(namespace, None) is not None:
                log.info("namespace %s is served again", namespace)

    async def _list(self, namespace: str | None) -> None:
        await self.jobs.replace(self._cluster.list(KIND, namespace, wanted=self.jobs.is_new), namespace)
        pods = self._cluster.list("Pod", namespace, LABEL_JOB, lambda pod: self._matters(pod) and self.pods.is_new(pod))
        await self.pods.replace(self._unsettled(pods), namespace)

    async def gather_pods(self, key: Key, job: SFTJob) -> tuple[PodView, ...]:
        """Return the job's Pods. A missing one is looked up first, since a second one would be created for it.

        Raises:
            ClusterError: the server does not answer.
            UnrecognizedError: a Pod has lost its labels.
        """
        uid = job.metadata.uid
        gone = self._unrecorded(job)
        known = {pod.name for pod in (*gone, *self._pods_of(key, uid))}
        for attempt in job.status.attempts:
            if attempt.end_time is not None:
                continue
            for name in pod_names(job, attempt.stage, attempt.number):
                if name in known:
                    continue
                body = await find(self._cluster, "Pod", job.metadata.namespace, name)
                if body is None or owner_uid(body) != uid:
                    continue
                if pod_job(body) != key:
                    raise UnrecognizedError(f"Pod {name} has lost its labels: restore them, or delete the Pod")
                self.pods.put(body)
        return tuple({pod.name: pod for pod in (*gone, *self._pods_of(key, uid))}.values())

    def uids(self) -> frozenset[str]:
        """Return the UIDs of all existing jobs."""
        return frozenset(job["metadata"]["uid"] for job in self.all_jobs())

    def forget(self, uid: str) -> None:
        """Drop the final states of the Pods of a job."""
        self._final_states.pop(uid, None)

    def keep_only(self, uids: Container[str]) -> None:
        """Drop the final states of the Pods of all other jobs."""
        self._final_states = {uid: pods for uid, pods in self._final_states.items() if uid in uids}

    def _pods_of(self, key: Key, uid: str) -> tuple[PodView, ...]:
        """Return the Pods of the job of this name and UID, without those of an earlier job of the name."""
        return tuple(pod for pod in self.pods.get(key) if pod.owner_uid == uid)

    def _unrecorded(self, job: SFTJob) -> tuple[PodView, ...]:
        """Return Pods that no longer exist and whose end is not in the status yet."""
        recorded = {(attempt.stage, attempt.number) for attempt in job.status.attempts if attempt.end_time is not None}
        pods = self._final_states.pop(job.metadata.uid, {})
        kept = {name: pod for name, pod in pods.items() if (pod.stage, pod.attempt) not in recorded}
        if kept:
            self._final_states[job.metadata.uid] = kept
        return tuple(kept.values())


def job_key(body: Body) -> Key:
    """Return namespace and name of a job."""
    return body["metadata"]["namespace"], body["metadata"]["name"]


def stored_job(body: Body) -> Object:
    """Return a job without the parts that the operator never reads again, since thousands are held in memory."""
    kept = {"metadata": {name: body["metadata"][name] for name in _KEPT_METADATA if name in body["metadata"]}}
    status = body.get("status") or {}
    if is_finished(body) and not awaits_cleanup(body):
        return {**kept, "status": {name: status[name] for name in _KEPT_STATUS if name in status}}
    return {**kept, "spec": body.get("spec") or {}, "status": status}
