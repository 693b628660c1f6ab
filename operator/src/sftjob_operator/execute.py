"""Execute decided actions: create and delete children."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from sftjob_contract.names import CA_KEY
from sftjob_operator.api import ConditionReason, SFTJob
from sftjob_operator.claim_release import release_claim
from sftjob_operator.cluster_cache import ClusterCache
from sftjob_operator.effects.children import ensure, find, publish, remove
from sftjob_operator.effects.cluster import Cluster, ClusterError, ForbiddenError, InvalidError, NotFoundError
from sftjob_operator.reconcile import (
    Action,
    Create,
    CreateError,
    Delete,
    PodView,
    Publish,
    belongs_to,
    name_conflict,
    owner_uid,
    rendered_invalid,
)
from sftjob_operator.report_store import ReportStore
from sftjob_operator.runtime.logs import LogDeduplicator
from sftjob_operator.runtime.workqueue import Clock, Key, WorkQueue
from sftjob_operator.status_writer import ActionError, job_field

log = logging.getLogger(__name__)
Body = Mapping[str, Any]


class ActionExecutor:
    """Writes to the cluster for the job that a worker holds; `cache` is updated with the server's responses."""

    def __init__(
        self, cluster: Cluster, cache: ClusterCache, reports: ReportStore, queue: WorkQueue, clock: Clock
    ) -> None:
        self._cluster = cluster
        self._reports = reports
        self._cache = cache
        self._queue = queue
        self._clock = clock
        self._log_dedup = LogDeduplicator(clock.monotonic)

    async def execute(self, key: Key, job: SFTJob, actions: tuple[Action, ...]) -> CreateError | None:
        """Execute actions in order, up to the first child that the server refuses to create.

        Raises:
            NotDoneError: the server does not answer, or rejects anything but a create.
        """
        for action in actions:
            if isinstance(action, Delete):
                await self._delete(key, job.metadata.uid, action)
            elif isinstance(action, Publish):
                await self._publish(key, job, action)
            elif (create_error := await self._create(key, job, action)) is not None:
                return create_error
        return None

    async def end_pods(self, key: Key, job_uid: str, pods: tuple[PodView, ...]) -> None:
        """Delete Pods of a job that has ended, for example one whose create returned after the job's last decision.

        Raises:
            NotDoneError: the server rejects the request, or does not answer.
        """
        for pod in pods:
            await self._delete(key, job_uid, Delete(kind="Pod", name=pod.name, uid=pod.uid))

    async def _create(self, key: Key, job: SFTJob, action: Create) -> CreateError | None:
        kind, name = action.body["kind"], action.body["metadata"]["name"]
        try:
            child = await ensure(self._cluster, action.body, expected=action.expected)
        except (ForbiddenError, InvalidError, NotFoundError) as error:
            final = rendered_invalid(action.body, str(error), getattr(error, "causes", ()))
            return CreateError(kind=kind, name=name, message=str(error), final=final)
        except ClusterError as error:
            raise ActionError(ConditionReason.SERVER_UNAVAILABLE, f"create {kind} {name}", error) from error
        if not belongs_to(child.body, job.metadata.uid):
            taken = name_conflict(child.body)
            if kind == "PersistentVolumeClaim" and "deletionTimestamp" in child.body["metadata"]:
                taken = (
                    f"{kind} {name} of an earlier SFTJob is being deleted. {await self._release_claim(key[0], name)}"
                )
            return CreateError(kind=kind, name=name, message=taken, conflict=True)
        if kind == "ConfigMap" and (ca := action.body["data"].get(CA_KEY)) is not None:
            self._reports.published(job.metadata.uid, ca, None)
        if kind == "Pod":
            self._cache.pods.put(child.body)
            if child.existed:
                self._queue.add(key)
            else:
                log.info("created Pod %s", name, extra=job_field(key))
        return None

    async def _publish(self, key: Key, job: SFTJob, action: Publish) -> None:
        """Set keys of a ConfigMap for running Pods. They keep training without it, so a failure stops no other work."""
        uid, ca = job.metadata.uid, action.data[CA_KEY]
        try:
            found = await find(self._cluster, "ConfigMap", job.metadata.namespace, action.name)
            if found is None or owner_uid(found) != uid:
                self._reports.published(uid, ca, None)
                return
            written = await publish(self._cluster, found, action.data)
        except ClusterError as error:
            if self._log_dedup.is_new(uid, str(error)):
                log.warning("cannot publish %s of %s: %s", CA_KEY, action.name, error, extra=job_field(key))
            return
        changed = written is not found
        self._reports.published(uid, ca, self._clock.now() if changed else None)
        if changed:
            log.info("published %s in ConfigMap %s", CA_KEY, action.name, extra=job_field(key))
            self._queue.add(key)

    async def _release_claim(self, namespace: str, claim: str) -> str:
        try:
            return await release_claim(self._cluster, self._cache, namespace, claim)
        except ClusterError as error:
            return f"The Pods that mount it are not known: {error}"

    async def _delete(self, key: Key, job_uid: str, action: Delete) -> None:
        """Delete a child, but no object of another owner."""
        uid = action.uid
        try:
            if uid is None:
                body = await find(self._cluster, action.kind, key[0], action.name)
                if body is None or owner_uid(body) != job_uid:
                    return
                uid = str(body["metadata"]["uid"])
            await remove(self._cluster, action.kind, key[0], action.name, uid)
        except ClusterError as error:
            refused = isinstance(error, ForbiddenError | InvalidError)
            reason = ConditionReason.DELETION_REFUSED if refused else ConditionReason.SERVER_UNAVAILABLE
            raise ActionError(reason, f"delete {action.kind} {action.name}", error) from error
        log.info("deleted %s %s", action.kind, action.name, extra=job_field(key))

    async def delete_all(self, key: Key, job_uid: str, deletions: Iterable[Delete]) -> None:
        """Delete Pods of a job that has ended.

        Raises:
            NotDoneError: the server rejects the request, or does not answer.
        """
        for deletion in deletions:
            await self._delete(key, job_uid, deletion)
