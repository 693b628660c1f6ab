"""Gather, decide, execute: what happens when something about a job may have changed."""

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from sftjob_contract.progress import Progress
from sftjob_operator.api import ConditionReason, InvalidJob, read_job, read_partly
from sftjob_operator.effects.cluster import (
    Cluster,
    ClusterError,
    NotFoundError,
    Object,
    UnavailableError,
    UnrecognizedError,
)
from sftjob_operator.execute import Execution
from sftjob_operator.gather import Gathering
from sftjob_operator.inquiries import Inquiries
from sftjob_operator.logs import LogPace
from sftjob_operator.metrics.operator import Failure, OperatorMetrics
from sftjob_operator.progress.identity import PodIdentity
from sftjob_operator.progress.pace import WritePace
from sftjob_operator.progress.reception import Reception
from sftjob_operator.reconcile import (
    Decision,
    Observed,
    Settings,
    awaits_cleanup,
    decide,
    decide_stop,
    dismissals_after,
    is_finished,
    partly_readable,
    seconds_to_deadline,
    stop_reason,
    unreadable,
    usable_progress,
)
from sftjob_operator.report_store import ReportStore
from sftjob_operator.statuses import NotDoneError, StatusWriter, job_field
from sftjob_operator.workqueue import Clock, Key, WorkQueue

RESYNC_SECONDS: Final = 600
"""How often everything is listed, in case a watch missed that something went away."""
SETTLE_SECONDS: Final = 2.0
"""How long a status change that is neither a new phase nor a first report waits for company."""
MOST_WRITES_PER_SECOND: Final = 20.0
"""How many such changes of all jobs together are written, on average. Each is a revision of the whole job in etcd, and
an event of every watch. It is one in each default interval for 200 jobs that train."""
FIRST_LISTING_RETRY_SECONDS: Final = 5.0

_FAULT_MESSAGE: Final = (
    "An internal error keeps the operator from deciding about this job; its log has the traceback. It tries again."
)

log = logging.getLogger(__name__)
Body = Mapping[str, Any]


class Controller:
    """The queue of jobs to look at, the work on one of them, and what watches and trainers report meanwhile."""

    def __init__(
        self,
        cluster: Cluster,
        settings: Settings,
        interval_seconds: float,
        clock: Clock,
        metrics: OperatorMetrics,
        namespaces: tuple[str, ...] = (),
    ) -> None:
        self._metrics = metrics
        self._settings = settings
        self._clock = clock
        self._known = Gathering(cluster, namespaces)
        self._inquiries = Inquiries(cluster, clock)
        self._reports = ReportStore(settings.silence_seconds)
        self._logged: dict[str, str] = {}
        """By uid: the refusal or fault that was logged last, so that it is not logged at each try."""
        self._pace = WritePace(interval_seconds, SETTLE_SECONDS, MOST_WRITES_PER_SECOND, clock.monotonic)
        self._log_pace = LogPace(clock.monotonic)
        self.queue = WorkQueue(clock)
        self._execution = Execution(cluster, self._known, self._reports, self.queue, clock)
        self._statuses = StatusWriter(cluster, self._known, self._pace, self.queue, clock)

    def use(self, settings: Settings) -> None:
        """Decide by these settings from now on; jobs that train are looked at, for what they are to see of it."""
        changed, self._settings = self._settings != settings, settings
        for key in self._known.jobs.jobs() if changed else ():
            self.queue.add(key)

    def follow(self, reception: Reception) -> None:
        """Take into account what the endpoint knows of reports that it could not take."""
        self._reports.follow(reception)

    # What watches and trainers report

    def job_changed(self, body: Body) -> None:
        """A job was created, changed, or listed."""
        if (key := self._known.jobs.put(body)) is not None:
            self.queue.add(key)

    def job_gone(self, body: Body) -> None:
        """A job was deleted. Its children follow by garbage collection."""
        if (key := self._known.jobs.drop(body)) is not None:
            self._forget(key, body["metadata"]["uid"])

    def pod_changed(self, body: Body) -> None:
        """A Pod was created, changed, or listed."""
        if (key := self._known.pods.put(body)) is not None:
            self.queue.add(key)

    def pod_gone(self, body: Body) -> None:
        """A Pod was deleted."""
        if (key := self._known.pod_gone(body)) is not None:
            self.queue.add(key)

    def training_attempt(self, key: Key, identity: PodIdentity) -> int | None:
        """The attempt that a Pod runs for a job, or None if it is not the live train Pod of that very job."""
        return self._known.training_attempt(key, identity)

    def report(self, key: Key, progress: Progress) -> None:
        """Take in a trainer's report; the first one of an attempt is looked at immediately.

        Raises:
            ValueError: it can not be stored; the text says why.
        """
        progress = usable_progress(progress)
        if (uid := self._uid(key)) is None:
            return
        known = self._reports.put(uid, progress, self._clock.now())
        if known is not None and known.progress.attempt == progress.attempt:
            self.queue.add_after(key, self._pace.seconds_until_allowed(uid))
        else:
            self.queue.add(key)

    def newest_progress(self, key: Key) -> Progress | None:
        """The newest report that was taken in for a job, of whichever attempt."""
        known = self._reports.report(self._uid(key) or "")
        return None if known is None else known.progress

    # What is asked of it

    def jobs(self) -> Iterator[Object]:
        """Every job that is there, as it was last seen."""
        return self._known.all_jobs()

    def unserved_namespaces(self) -> int:
        """How many namespaces are not served, since the server refuses to list them."""
        return len(self._known.unserved)

    def newest_pod(self, job: str) -> tuple[int, str] | None:
        """Attempt and name of the newest Pod of a job, which is NAMESPACE/NAME; None before the first."""
        namespace, _, name = job.partition("/")
        return self._known.newest_pod((namespace, name))

    # Work

    async def first_listing(self) -> None:
        """Read what exists, as often as it takes. Nothing may be decided before: what is unknown would look missing."""
        while True:
            try:
                return await self.resync()
            except NotFoundError:
                if self._log_pace.is_news("listing", "not served"):
                    log.warning("SFTJobs are not served: kubectl apply -f crds/sftjobs.yaml; trying again")
            except ClusterError as error:
                if self._log_pace.is_news("listing", str(error)):
                    log.warning("cannot list SFTJobs and Pods: %s; trying again", error)
            await asyncio.sleep(FIRST_LISTING_RETRY_SECONDS)

    async def resync(self) -> None:
        """List all jobs and Pods, and look at every job that may need something.

        Raises:
            ClusterError: they could not be listed.
        """
        for key in await self._known.resync():
            self.queue.add(key)
        uids = self._known.uids()
        self._reports.keep_only(uids)
        self._logged = {uid: text for uid, text in self._logged.items() if uid in uids}
        self._statuses.keep_only(uids)
        self._known.keep_only(uids)

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
                log.warning("cannot list SFTJobs and Pods: %s; next time in %s s", error, RESYNC_SECONDS)

    async def _work_forever(self) -> None:
        while True:
            await self.work()
            await asyncio.sleep(0)  # a job that needs nothing never waits: let requests and reports have their turn

    async def work(self) -> None:
        """Take the next job from the queue and look at it; whatever goes wrong is tried again later."""
        key = await self.queue.get()
        began = self._clock.monotonic()
        body = self._known.job(key)
        try:
            if body is not None:
                await self._reconcile(key, body)
            self.queue.succeeded(key)
        except NotDoneError as refused:
            await self._explain(key, body, refused.reason, str(refused))
            self._failed(key, body, refused.error, refused.after_seconds)
        except Exception as error:  # noqa: BLE001 -- one job's fault must not stop the others; it is logged
            if isinstance(error, UnrecognizedError):
                await self._explain(key, body, ConditionReason.NAME_CONFLICT, str(error))
            elif not isinstance(error, ClusterError):
                await self._explain(key, body, ConditionReason.OPERATOR_FAULT, _FAULT_MESSAGE)
            self._failed(key, body, error)
        finally:
            self._metrics.reconciled(self._clock.monotonic() - began)
            self.queue.done(key)

    async def _explain(self, key: Key, body: Object | None, reason: ConditionReason, message: str) -> None:
        """Say in the job's conditions what keeps the operator from acting; a server that is back at once needs none.

        Those of a job that has ended are final: an Event says it.
        """
        passing = reason == ConditionReason.SERVER_UNAVAILABLE
        if body is None or (passing and not self.queue.has_failed(key, body["metadata"]["uid"])):
            return
        if is_finished(body):
            await self._statuses.tell(body, reason, message)
            return
        try:
            await self._statuses.hold(key, self._known.job(key) or body, reason, message)
        except NotDoneError as refused:
            log.info("cannot write the reason into the status: %s", refused.error, extra=job_field(key))

    def _failed(self, key: Key, body: Object | None, error: Exception, after_seconds: float = 0.0) -> None:
        """Work on a job failed: try again later, and log that once for each wait, however often the job is woken."""
        refused = Failure.REFUSED if isinstance(error, ClusterError) else Failure.FAULT
        cause = Failure.UNAVAILABLE if isinstance(error, UnavailableError) else refused
        self._metrics.failed(cause)
        longer = max(after_seconds, getattr(error, "retry_after_seconds", None) or 0)
        uid = "" if body is None else body["metadata"]["uid"]
        told = type(error).__name__ if cause is Failure.UNAVAILABLE else f"{type(error).__name__}: {error}"
        wait = self.queue.retry(key, uid, told, longer)
        if wait is None:
            return
        if cause is Failure.FAULT:
            log.error("Internal error; trying again in %.3g s", wait, exc_info=error, extra=job_field(key))
        else:
            level = logging.WARNING if cause is Failure.UNAVAILABLE else logging.ERROR
            log.log(level, "%s; trying again in %.3g s", error, wait, extra=job_field(key))

    async def _reconcile(self, key: Key, body: Object) -> None:
        uid = body["metadata"]["uid"]
        now = self._clock.now()
        if is_finished(body):
            await self._execution.end_pods(key, uid, self._known.late_pods(key, uid))
            if not awaits_cleanup(body):
                await self._finish(key, body, now)
                return
        try:
            job, unread = read_job(body)
        except InvalidJob as error:
            if not is_finished(body) and "deletionTimestamp" not in body["metadata"]:
                await self._keep(key, body, str(error))
            return
        pods = await self._known.gather_pods(key, job)
        obstacles = await self._inquiries.obstacles(key, pods, now)
        observed = Observed(
            job=job,
            pods=pods,
            report=self._reports.report(uid),
            obstacles=obstacles,
            reachability=self._reports.reachability(uid, now),
            published_ca=self._reports.published_ca(uid),
        )
        decision = self._decide(key, observed)
        refusal = await self._execution.execute(key, job, decision.actions)
        if refusal is not None:
            if self._logged.get(uid) != refusal.message:
                log.warning("%s", refusal.message, extra=job_field(key))
                self._logged[uid] = refusal.message
            pods = await self._known.gather_pods(key, job)  # with those that were created before it
            decision = self._decide(key, replace(observed, pods=pods, refusal=refusal))
            await self._execution.execute(key, job, decision.actions)
        await self._statuses.settle(key, body, decision, unread)
        now_there = self._known.pods.of(key)  # with those that were just created
        if (wait := self._inquiries.seconds_until_next(key, now_there, now)) is not None:
            self.queue.add_after(key, wait)

    async def _keep(self, key: Key, body: Object, why: str) -> None:
        """Keep a job whose object cannot be read as it is, and stop its Pods where what can be read asks for that."""
        now = self._clock.now()
        try:
            job, unread = read_partly(body)
        except InvalidJob:
            await self._statuses.hold(key, body, ConditionReason.INVALID_SPEC, unreadable(why, stops=False))
            return
        if (left := seconds_to_deadline(job, now)) is not None and left > 0:
            self.queue.add_after(key, left)
        decision = None
        if stop_reason(job, now) is not None:
            pods = await self._known.gather_pods(key, job)
            observed = Observed(job=job, pods=pods, report=self._reports.report(job.metadata.uid))
            decision = decide_stop(observed, self._settings, now, partly_readable(why))
        if decision is None:
            await self._statuses.hold(key, body, ConditionReason.INVALID_SPEC, unreadable(why, stops=True))
            return
        await self._execution.execute(key, job, decision.actions)
        await self._statuses.settle(key, body, decision, unread)

    async def _finish(self, key: Key, body: Object, now: datetime) -> None:
        """Delete what still runs of a job that has ended, then forget it."""
        uid = body["metadata"]["uid"]
        own = (pod for pod in self._known.pods.of(key) if pod.owner_uid == uid)
        deletions, wait = dismissals_after(own, body["status"].get("completionTime"), now)
        await self._execution.dismiss(key, uid, deletions)
        if wait is None:
            self._forget(key, uid)
        else:
            self.queue.add_after(key, wait)

    def _decide(self, key: Key, observed: Observed) -> Decision:
        """Decide; if that faults, without what came from inside the Pods, so that suspend and deadlines still hold."""
        now, uid = self._clock.now(), observed.job.metadata.uid
        try:
            return decide(observed, self._settings, now)
        except Exception as error:  # noqa: BLE001 -- whatever a Pod has sent
            fault = error
        quiet = replace(observed, report=None)
        for less in (quiet, replace(quiet, pods=tuple(replace(pod, outcome=None) for pod in observed.pods))):
            with suppress(Exception):
                decision = decide(less, self._settings, now)
                self._reports.drop_report(uid)
                self._metrics.failed(Failure.FAULT)
                if self._logged.get(uid) != repr(fault):
                    self._logged[uid] = repr(fault)
                    log.error(
                        "Internal error; decided without what its Pods sent", exc_info=fault, extra=job_field(key)
                    )
                return decision
        raise fault

    def _uid(self, key: Key) -> str | None:
        body = self._known.job(key)
        return None if body is None else str(body["metadata"]["uid"])

    def _forget(self, key: Key, uid: str) -> None:
        """A job that has ended or is gone needs no memory but its own; one that has its name by now keeps its own."""
        self._reports.forget(uid)
        self._logged.pop(uid, None)
        self._statuses.forget(uid)
        self._known.forget(uid)
        if self._uid(key) in (None, uid):
            self._known.pods.forget(key)
            self._inquiries.forget(key)
            self.queue.forget(key)
