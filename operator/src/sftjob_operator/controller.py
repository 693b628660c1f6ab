"""Gather, decide, execute: what happens when something about a job may have changed."""

import asyncio
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from sftjob_contract.names import KIND, LABEL_JOB, Stage
from sftjob_contract.progress import Progress
from sftjob_operator.api import ConditionReason, ConditionStatus, ConditionType, InvalidJob, SFTJob, parse_job, to_dict
from sftjob_operator.effects.cache import Cache
from sftjob_operator.effects.children import ensure, find, remove
from sftjob_operator.effects.cluster import (
    AlreadyExistsError,
    Cluster,
    ClusterError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    Object,
    UnavailableError,
)
from sftjob_operator.effects.events import event_body
from sftjob_operator.metrics.operator import Failure, OperatorMetrics
from sftjob_operator.progress.identity import PodIdentity
from sftjob_operator.progress.pace import WritePace
from sftjob_operator.reconcile import (
    Action,
    Create,
    Decision,
    Delete,
    EventNote,
    Observed,
    PodView,
    Refusal,
    Report,
    Settings,
    awaits_cleanup,
    belongs_to,
    check_progress,
    decide,
    is_finished,
    merge_patch,
    owner_uid,
    pod_job,
    pod_names,
    pod_view,
    refuse,
    rfc3339,
)
from sftjob_operator.workqueue import Clock, Key, WorkQueue

RESYNC_SECONDS: Final = 600
"""How often everything is listed, in case a watch missed that something went away."""
SETTLE_SECONDS: Final = 2.0
"""How long a status change that is neither a new phase nor a first report waits for company."""
FIRST_LISTING_RETRY_SECONDS: Final = 5.0
_KEPT_METADATA: Final = (
    "name", "namespace", "uid", "generation", "resourceVersion", "creationTimestamp", "deletionTimestamp",
)  # fmt: skip

_KEPT_STATUS: Final = (
    "phase", "method", "startTime", "completionTime", "conditions", "progress", "checkpoints", "attempts",
)  # fmt: skip
"""What metrics are made of once a job has ended."""

log = logging.getLogger(__name__)
Body = Mapping[str, Any]


class Controller:
    """The jobs and Pods as last seen, the queue of jobs to look at, and the work on one of them."""

    def __init__(
        self, cluster: Cluster, settings: Settings, interval_seconds: float, clock: Clock, metrics: OperatorMetrics
    ) -> None:
        self._cluster = cluster
        self._metrics = metrics
        self._settings = settings
        self._clock = clock
        self._jobs: Cache[Object] = Cache(stored_job, job_key)
        self._pods: Cache[PodView] = Cache(pod_view, pod_job)
        self._last_words: dict[Key, dict[str, PodView]] = {}
        self._reports: dict[Key, Report] = {}
        self._pace = WritePace(interval_seconds, SETTLE_SECONDS, clock.monotonic)
        self.queue = WorkQueue(clock)

    def use(self, settings: Settings) -> None:
        """Decide by these settings from now on."""
        self._settings = settings

    # What watches and trainers tell

    def job_changed(self, body: Body) -> None:
        """A job was created, changed, or listed."""
        if (key := self._jobs.put(body)) is not None:
            self.queue.add(key)

    def job_gone(self, body: Body) -> None:
        """A job was deleted. Its children follow by garbage collection."""
        if (key := self._jobs.drop(body)) is not None:
            self._forget(key)

    def pod_changed(self, body: Body) -> None:
        """A Pod was created, changed, or listed."""
        if (key := self._pods.put(body)) is not None:
            self.queue.add(key)

    def pod_gone(self, body: Body) -> None:
        """A Pod was deleted. How it ended may be known from this event alone, so that is kept until it is recorded."""
        if (key := self._pods.drop(body)) is not None:
            view = pod_view(body)
            if not view.live:
                self._last_words.setdefault(key, {})[view.name] = view
            self.queue.add(key)

    def training_attempt(self, key: Key, identity: PodIdentity) -> int | None:
        """The attempt that a Pod runs for a job, or None if it is not the live train Pod of that very job."""
        job = self._job(key)
        if job is None or identity.namespace != key[0]:
            return None
        for pod in self._pods.of(key):
            same = (pod.name, pod.uid, pod.owner_uid) == (identity.name, identity.uid, job["metadata"]["uid"])
            if same and pod.is_training and pod.rank == 0:
                return pod.attempt
        return None

    def report(self, key: Key, progress: Progress) -> None:
        """Take in a trainer's report; the first one of an attempt is looked at immediately.

        Raises:
            ValueError: it can not be stored; the text says why.
        """
        check_progress(progress)
        known = self._reports.get(key)
        self._reports[key] = Report(progress=progress, received=self._clock.now())
        if known is not None and known.progress.attempt == progress.attempt:
            self.queue.add_after(key, self._pace.seconds_until_allowed(key))
        else:
            self.queue.add(key)

    def newest_progress(self, key: Key) -> Progress | None:
        """The newest report that was taken in for a job, of whichever attempt."""
        known = self._reports.get(key)
        return None if known is None else known.progress

    # What is asked of it

    def jobs(self) -> Iterator[Object]:
        """Every job that is there, as it was last seen."""
        for key in self._jobs.jobs():
            yield from self._jobs.of(key)

    def newest_pod(self, job: str) -> tuple[int, str] | None:
        """Attempt and name of the newest Pod of a job, which is NAMESPACE/NAME; None before the first."""
        namespace, _, name = job.partition("/")
        key = (namespace, name)
        pods = [(pod.stage == Stage.TRAIN, pod.attempt, -pod.rank, pod.name) for pod in self._pods.of(key)]
        if pods:
            _, attempt, _, pod = max(pods)
            return attempt, pod
        body = self._job(key) or {}
        told = (body.get("status") or {}).get("attempts")
        return (told[-1]["number"], told[-1]["pod"]) if told else None

    # Work

    async def first_listing(self) -> None:
        """Read what exists, as often as it takes. Nothing may be decided before: what is unknown would look missing."""
        while True:
            try:
                return await self.resync()
            except NotFoundError:
                log.warning("SFTJobs are not served: kubectl apply -f crds/sftjobs.yaml; trying again")
            except ClusterError as error:
                log.warning("can not list SFTJobs and Pods: %s; trying again", error)
            await asyncio.sleep(FIRST_LISTING_RETRY_SECONDS)

    async def resync(self) -> None:
        """List all jobs and Pods, and look at every job.

        Raises:
            ClusterError: they could not be listed.
        """
        before = self._jobs.jobs()
        await self._jobs.replace(self._cluster.list(KIND))
        await self._pods.replace(self._cluster.list("Pod", LABEL_JOB))
        for key in {*before, *self._jobs.jobs()}:
            self.queue.add(key)

    async def run(self, workers: int) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._resync_forever())
            for _ in range(workers):
                tasks.create_task(self._work_forever())

    async def _resync_forever(self) -> None:
        while True:
            await asyncio.sleep(RESYNC_SECONDS)
            try:
                await self.resync()
            except ClusterError as error:
                log.warning("can not list SFTJobs and Pods: %s; next time in %s s", error, RESYNC_SECONDS)

    async def _work_forever(self) -> None:
        while True:
            await self.work()
            await asyncio.sleep(0)  # a job that needs nothing never waits: let requests and reports have their turn

    async def work(self) -> None:
        """Take the next job from the queue and look at it; whatever goes wrong is tried again later."""
        key = await self.queue.get()
        began = self._clock.monotonic()
        try:
            await self._reconcile(key)
            self.queue.succeeded(key)
        except UnavailableError as error:
            self._metrics.failed(Failure.UNAVAILABLE)
            wait = self.queue.retry(key, error.retry_after_seconds or 0)
            log.warning("%s; trying again in %g s", error, wait, extra=_job_field(key))
        except ClusterError as error:
            self._metrics.failed(Failure.REFUSED)
            wait = self.queue.retry(key)
            log.error("%s; trying again in %g s", error, wait, extra=_job_field(key))  # noqa: TRY400 -- told by the text
        except Exception:
            self._metrics.failed(Failure.FAULT)
            wait = self.queue.retry(key)
            log.exception("a fault of the operator; trying again in %g s", wait, extra=_job_field(key))
        finally:
            self._metrics.reconciled(self._clock.monotonic() - began)
            self.queue.done(key)

    async def _reconcile(self, key: Key) -> None:
        body = self._job(key)
        if body is None or (is_finished(body) and not awaits_cleanup(body)):
            self._forget(key)
            return
        now = self._clock.now()
        try:
            job = parse_job(body)
        except InvalidJob as error:
            if not is_finished(body):
                await self._settle(key, body, refuse(body, str(error), now))
            return
        pods = await self._gather_pods(key, job)
        observed = Observed(job=job, pods=pods, report=self._reports.get(key))
        decision = decide(observed, self._settings, now)
        refusal = await self._execute(key, job, decision.actions)
        if refusal is not None:
            log.warning("%s", refusal.message, extra=_job_field(key))
            pods = await self._gather_pods(key, job)  # with those that were created before it
            decision = decide(replace(observed, pods=pods, refusal=refusal), self._settings, now)
            await self._execute(key, job, decision.actions)
        await self._settle(key, body, decision)

    async def _gather_pods(self, key: Key, job: SFTJob) -> tuple[PodView, ...]:
        """The job's Pods. That one is gone is believed only after looking, since a second one would follow."""
        gone = self._unrecorded(key, job)
        known = {pod.name for pod in (*gone, *self._pods.of(key))}
        for attempt in job.status.attempts:
            if attempt.end_time is not None:
                continue
            for name in pod_names(job, attempt.stage, attempt.number):
                if name in known:
                    continue
                body = await find(self._cluster, "Pod", job.metadata.namespace, name)
                if body is None or owner_uid(body) != job.metadata.uid:
                    continue
                if pod_job(body) != key:
                    raise ClusterError(f"Pod {name} has lost its labels: put them back, or delete it")
                self._pods.put(body)
        return tuple({pod.name: pod for pod in (*gone, *self._pods.of(key))}.values())

    def _unrecorded(self, key: Key, job: SFTJob) -> tuple[PodView, ...]:
        """Pods that are gone and whose end the status does not tell yet."""
        recorded = {(attempt.stage, attempt.number) for attempt in job.status.attempts if attempt.end_time is not None}
        words = self._last_words.pop(key, {})
        kept = {name: pod for name, pod in words.items() if (pod.stage, pod.attempt) not in recorded}
        if kept:
            self._last_words[key] = kept
        return tuple(kept.values())

    async def _execute(self, key: Key, job: SFTJob, actions: tuple[Action, ...]) -> Refusal | None:
        """Carry out actions in order, up to the first child that the server refuses to create."""
        for action in actions:
            if isinstance(action, Delete):
                await self._delete(key, job, action)
            elif (refusal := await self._create(key, job, action)) is not None:
                return refusal
        return None

    async def _create(self, key: Key, job: SFTJob, action: Create) -> Refusal | None:
        kind, name = action.body["kind"], action.body["metadata"]["name"]
        try:
            child = await ensure(self._cluster, action.body)
        except (ForbiddenError, InvalidError) as error:
            return Refusal(kind=kind, name=name, message=str(error), final=isinstance(error, InvalidError))
        if not belongs_to(child.body, job.metadata.uid):
            return Refusal(kind=kind, name=name, message=_taken(child.body, kind, name), conflict=True)
        if kind == "Pod":
            self._pods.put(child.body)
            if child.existed:
                self.queue.add(key)
            else:
                log.info("created Pod %s", name, extra=_job_field(key))
        return None

    async def _delete(self, key: Key, job: SFTJob, action: Delete) -> None:
        """Delete a child, but nothing that belongs to something else."""
        namespace, uid = job.metadata.namespace, action.uid
        if uid is None:
            body = await find(self._cluster, action.kind, namespace, action.name)
            if body is None or owner_uid(body) != job.metadata.uid:
                return
            uid = str(body["metadata"]["uid"])
        await remove(self._cluster, action.kind, namespace, action.name, uid)
        log.info("deleted %s %s", action.kind, action.name, extra=_job_field(key))

    async def _settle(self, key: Key, body: Body, decision: Decision) -> None:
        """Make the decided status the stored one, now or when it is due, and see to the next look at the job."""
        old = body.get("status") or {}
        new = {name: part for name, part in to_dict(decision.status).items() if part not in ([], {})}
        if patch := merge_patch(old, new):
            wait = 0.0 if _urgent(old, new) else self._pace.seconds_until_allowed(key)
            if wait > 0:
                self.queue.add_after(key, wait)
            elif await self._write(key, body, patch, new):
                await self._post(body, decision.events)
        if decision.recheck_seconds is not None:
            self.queue.add_after(key, decision.recheck_seconds)

    async def _write(self, key: Key, body: Body, patch: Object, new: Object) -> bool:
        """Patch the status, provided that the job is still the one that was decided about."""
        namespace, name = key
        guard = {"resourceVersion": body["metadata"]["resourceVersion"]}
        try:
            answer = await self._cluster.patch_status(namespace, name, {"metadata": guard, "status": patch})
        except NotFoundError:
            self._jobs.drop(body)
            return False
        except ConflictError:
            self._jobs.put(await self._cluster.get(KIND, namespace, name))
            self.queue.add(key)
            return False
        self._pace.written(key)
        self._jobs.put(answer)
        if is_finished(answer):
            self.queue.add(key)  # to forget it, or to wait for its time to live
        if lost := merge_patch(answer.get("status") or {}, new):
            fields = ", ".join(sorted(lost))
            log.warning(
                "the API server did not keep status fields %s: apply crds/sftjobs.yaml", fields, extra=_job_field(key)
            )
        if new.get("phase") != (body.get("status") or {}).get("phase"):
            log.info("phase %s", new.get("phase"), extra=_job_field(key))
        return True

    async def _post(self, body: Body, events: tuple[EventNote, ...]) -> None:
        time = rfc3339(self._clock.now())
        for note in events:
            try:
                await self._cluster.create(event_body(body, note.type, note.reason, note.message, time))
            except AlreadyExistsError:
                continue
            except ClusterError as error:
                log.info("can not post Event %s: %s", note.reason, error, extra=_job_field(job_key(body)))

    def _job(self, key: Key) -> Object | None:
        return next(iter(self._jobs.of(key)), None)

    def _forget(self, key: Key) -> None:
        """A job that has ended or is gone needs no memory but its own."""
        self._reports.pop(key, None)
        self._pace.forget(key)
        self._pods.forget(key)
        self._last_words.pop(key, None)
        self.queue.forget(key)


def job_key(body: Body) -> Key:
    """Namespace and name of a job."""
    return body["metadata"]["namespace"], body["metadata"]["name"]


def stored_job(body: Body) -> Object:
    """A job without what the operator never reads again, since thousands of them are held."""
    kept = {"metadata": {name: body["metadata"][name] for name in _KEPT_METADATA if name in body["metadata"]}}
    status = body.get("status") or {}
    if is_finished(body) and not awaits_cleanup(body):
        return {**kept, "status": {name: status[name] for name in _KEPT_STATUS if name in status}}
    return {**kept, "spec": body.get("spec") or {}, "status": status}


def _urgent(old: Body, new: Body) -> bool:
    """A change that people wait for, or that must not get lost: another phase, first reports, Pods that have to end."""
    return (
        old.get("phase") != new.get("phase")
        or old.get("cleanupTime") != new.get("cleanupTime")
        or (_reporting(new) and not _reporting(old))
        or (_stopping(new) and not _stopping(old))
    )


def _reporting(status: Body) -> bool:
    return any(
        condition["type"] == ConditionType.PROGRESS_REPORTING and condition["status"] == ConditionStatus.TRUE
        for condition in status.get("conditions") or ()
    )


def _stopping(status: Body) -> bool:
    return any(condition["reason"] == ConditionReason.STOPPING for condition in status.get("conditions") or ())


def _taken(body: Body, kind: str, name: str) -> str:
    if owner_uid(body) is not None:
        return f"{kind} {name} of an earlier SFTJob is still there; it is being deleted, or delete it."
    if kind == "PersistentVolumeClaim":
        return (
            f"{kind} {name} exists and is not of this SFTJob (one with storage.retain leaves its claim behind): delete "
            f"it, or create the SFTJob anew with storage.existingClaim: {name}"
        )
    return f"{kind} {name} exists and belongs to something else: delete it, or give the SFTJob another name."


def _job_field(key: Key) -> dict[str, str]:
    """The field that every log line about a job carries."""
    return {"job": "/".join(key)}
