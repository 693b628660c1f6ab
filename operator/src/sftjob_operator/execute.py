"""Carrying out what was decided: create and delete children, write the status, post Events."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

from sftjob_contract.names import CA_KEY, KIND
from sftjob_operator.api import ConditionReason, ConditionStatus, ConditionType, SFTJob, Unread, keep_unknown, to_dict
from sftjob_operator.effects.children import ensure, find, publish, remove
from sftjob_operator.effects.cluster import (
    AlreadyExistsError,
    Cluster,
    ClusterError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    Object,
)
from sftjob_operator.effects.events import event_body
from sftjob_operator.gather import Gathering, job_key
from sftjob_operator.holders import release
from sftjob_operator.progress.pace import WritePace
from sftjob_operator.reconcile import (
    Action,
    Create,
    Decision,
    Delete,
    EventNote,
    PodView,
    Publish,
    Refusal,
    belongs_to,
    held_status,
    is_finished,
    merge_patch,
    owner_uid,
    rendered_invalid,
    rfc3339,
)
from sftjob_operator.report_store import ReportStore
from sftjob_operator.workqueue import Clock, Key, WorkQueue

_URGENT: Final = frozenset(
    {
        ConditionReason.STOPPING,
        ConditionReason.INVALID_SPEC,
        ConditionReason.NAME_CONFLICT,
        ConditionReason.CREATION_REFUSED,
        ConditionReason.QUOTA_EXCEEDED,
        ConditionReason.DELETION_REFUSED,
        ConditionReason.SERVER_UNAVAILABLE,
        ConditionReason.OPERATOR_FAULT,
    }
)
"""Reasons that Pods have to end for, or that keep the operator from acting."""

log = logging.getLogger(__name__)
Body = Mapping[str, Any]


class NotDoneError(Exception):
    """An action could not be carried out. `reason` and the text are for a condition, `error` is the server's answer."""

    def __init__(self, reason: ConditionReason, what: str, error: ClusterError) -> None:
        super().__init__(f"The operator could not {what}: {error}. It tries again.")
        self.reason = reason
        self.error = error


class Execution:
    """Writes to the cluster for the job that a worker holds; `known` learns what the server answers."""

    def __init__(
        self, cluster: Cluster, known: Gathering, reports: ReportStore, pace: WritePace, queue: WorkQueue, clock: Clock
    ) -> None:
        self._cluster = cluster
        self._reports = reports
        self._known = known
        self._pace = pace
        self._queue = queue
        self._clock = clock

    async def execute(self, key: Key, job: SFTJob, actions: tuple[Action, ...]) -> Refusal | None:
        """Carry out actions in order, up to the first child that the server refuses to create.

        Raises:
            NotDoneError: the server does not answer, or refuses anything but a create.
        """
        for action in actions:
            if isinstance(action, Delete):
                await self._delete(key, job.metadata.uid, action)
            elif isinstance(action, Publish):
                await self._publish(key, job, action)
            elif (refusal := await self._create(key, job, action)) is not None:
                return refusal
        return None

    async def end_pods(self, key: Key, job_uid: str, pods: tuple[PodView, ...]) -> None:
        """Delete Pods of a job that has ended, such as one whose create was answered after the job's last decision.

        Raises:
            NotDoneError: the server refuses, or does not answer.
        """
        for pod in pods:
            await self._delete(key, job_uid, Delete(kind="Pod", name=pod.name, uid=pod.uid))

    async def _create(self, key: Key, job: SFTJob, action: Create) -> Refusal | None:
        kind, name = action.body["kind"], action.body["metadata"]["name"]
        try:
            child = await ensure(self._cluster, action.body, expected=action.expected)
        except (ForbiddenError, InvalidError, NotFoundError) as error:
            final = rendered_invalid(action.body, str(error), getattr(error, "causes", ()))
            return Refusal(kind=kind, name=name, message=str(error), final=final)
        except ClusterError as error:
            raise NotDoneError(ConditionReason.SERVER_UNAVAILABLE, f"create {kind} {name}", error) from error
        if not belongs_to(child.body, job.metadata.uid):
            taken = _taken(child.body, kind, name)
            if kind == "PersistentVolumeClaim" and "deletionTimestamp" in child.body["metadata"]:
                taken = f"{kind} {name} of an earlier SFTJob is being deleted. {await self._release(key[0], name)}"
            return Refusal(kind=kind, name=name, message=taken, conflict=True)
        if kind == "ConfigMap" and (ca := action.body["data"].get(CA_KEY)) is not None:
            self._reports.published(job.metadata.uid, ca, None)
        if kind == "Pod":
            self._known.pods.put(child.body)
            if child.existed:
                self._queue.add(key)
            else:
                log.info("created Pod %s", name, extra=job_field(key))
        return None

    async def _publish(self, key: Key, job: SFTJob, action: Publish) -> None:
        """Set keys of a ConfigMap for running Pods. They train on without it, so that no failure stops other work."""
        uid, ca = job.metadata.uid, action.data[CA_KEY]
        try:
            found = await find(self._cluster, "ConfigMap", job.metadata.namespace, action.name)
            if found is None or owner_uid(found) != uid:
                self._reports.published(uid, ca, None)
                return
            written = await publish(self._cluster, found, action.data)
        except ClusterError as error:
            log.warning("cannot publish %s of %s: %s", CA_KEY, action.name, error, extra=job_field(key))
            return
        changed = written is not found
        self._reports.published(uid, ca, self._clock.now() if changed else None)
        if changed:
            log.info("published %s in ConfigMap %s", CA_KEY, action.name, extra=job_field(key))
            self._queue.add(key)

    async def _release(self, namespace: str, claim: str) -> str:
        try:
            return await release(self._cluster, self._known, namespace, claim)
        except ClusterError as error:
            return f"Which Pods mount it is not known: {error}"

    async def _delete(self, key: Key, job_uid: str, action: Delete) -> None:
        """Delete a child, but nothing that belongs to something else."""
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
            raise NotDoneError(reason, f"delete {action.kind} {action.name}", error) from error
        log.info("deleted %s %s", action.kind, action.name, extra=job_field(key))

    async def dismiss(self, key: Key, job_uid: str, deletions: Iterable[Delete]) -> None:
        """Delete Pods of a job that has ended.

        Raises:
            NotDoneError: the server refuses, or does not answer.
        """
        for deletion in deletions:
            await self._delete(key, job_uid, deletion)

    async def settle(self, key: Key, body: Body, decision: Decision, unread: Unread) -> None:
        """Make the decided status the stored one, now or when it is due, and schedule the next look at the job.

        `unread` is what of the stored status could not be read; it stays.

        Raises:
            ClusterError: the server refuses the status, or does not answer.
        """
        decided = {name: part for name, part in to_dict(decision.status).items() if part not in ([], {})}
        await self._store(key, body, keep_unknown(body.get("status") or {}, decided, unread), decision.events)
        if decision.recheck_seconds is not None:
            self._queue.add_after(key, decision.recheck_seconds)

    async def hold(self, key: Key, body: Body, reason: str, message: str) -> None:
        """Leave a job that cannot be decided about, or acted on, as it is, and say why in its conditions.

        Raises:
            ClusterError: the server refuses the status, or does not answer.
        """
        events = (EventNote(type="Warning", reason=reason, message=message),)
        await self._store(key, body, held_status(body, reason, message, self._clock.now()), events)

    async def _store(self, key: Key, body: Body, new: Object, events: tuple[EventNote, ...]) -> None:
        old = body.get("status") or {}
        if patch := merge_patch(old, new):
            wait = 0.0 if _urgent(old, new) else self._pace.seconds_until_allowed(body["metadata"]["uid"])
            if wait > 0:
                self._queue.add_after(key, wait)
            elif await self._write(key, body, patch, new):
                await self._post(body, events)
        else:
            self._pace.unwanted(body["metadata"]["uid"])

    async def _write(self, key: Key, body: Body, patch: Object, new: Object) -> bool:
        """Patch the status, provided that the job is still the one that was decided about."""
        namespace, name = key
        guard = {"resourceVersion": body["metadata"]["resourceVersion"]}
        try:
            answer = await self._cluster.patch_status(namespace, name, {"metadata": guard, "status": patch})
        except NotFoundError:
            self._known.jobs.drop(body)
            return False
        except ConflictError:
            self._known.jobs.put(await self._cluster.get(KIND, namespace, name))
            self._queue.add(key)
            return False
        self._pace.written(body["metadata"]["uid"])
        self._known.jobs.put(answer)
        if is_finished(answer):
            self._queue.add(key)  # to forget it, or to wait for its time to live
        if lost := merge_patch(answer.get("status") or {}, new):
            fields = ", ".join(sorted(lost))
            log.warning(
                "the API server did not keep status fields %s: apply crds/sftjobs.yaml", fields, extra=job_field(key)
            )
        if new.get("phase") != (body.get("status") or {}).get("phase"):
            log.info("phase %s", new.get("phase"), extra=job_field(key))
        return True

    async def _post(self, body: Body, events: tuple[EventNote, ...]) -> None:
        time = rfc3339(self._clock.now())
        for note in events:
            try:
                event = event_body(body, note.type, note.reason, note.message, time, note.cause)
                await self._cluster.create(event)
            except AlreadyExistsError:
                continue
            except ClusterError as error:
                log.info("can not post Event %s: %s", note.reason, error, extra=job_field(job_key(body)))


def job_field(key: Key) -> dict[str, str]:
    """The field that every log line about a job carries."""
    return {"job": "/".join(key)}


def _urgent(old: Body, new: Body) -> bool:
    """A change that people wait for, or that must not get lost: another phase, first reports, what keeps a job back."""
    return (
        old.get("phase") != new.get("phase")
        or old.get("cleanupTime") != new.get("cleanupTime")
        or bool(_telling(new) - _telling(old))
    )


def _telling(status: Body) -> set[tuple[str, str]]:
    """Conditions, by type and reason, whose first appearance is written without delay."""
    return {(str(c.get("type")), str(c.get("reason"))) for c in status.get("conditions") or () if _is_urgent(c)}


def _is_urgent(condition: Body) -> bool:
    reporting = (ConditionType.PROGRESS_REPORTING, ConditionStatus.TRUE)
    return (condition.get("type"), condition.get("status")) == reporting or str(condition.get("reason")) in _URGENT


def _taken(body: Body, kind: str, name: str) -> str:
    if owner_uid(body) is not None:
        return f"{kind} {name} of an earlier SFTJob is still there; it is being deleted, or delete it."
    if kind == "PersistentVolumeClaim":
        return (
            f"{kind} {name} exists and is not of this SFTJob (one with storage.retain leaves its claim behind): delete "
            f"it, or create the SFTJob anew with storage.existingClaim: {name}"
        )
    return f"{kind} {name} exists and belongs to something else: delete it, or give the SFTJob another name."
