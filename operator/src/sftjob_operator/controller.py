"""Gather, decide, execute: the reaction to a possible change of a job."""

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from sftjob_contract.reports.progress import Progress
from sftjob_operator.api import ConditionReason, InvalidJobError, read_job, read_partly
from sftjob_operator.cluster_cache import ClusterCache
from sftjob_operator.effects.cluster import (
    Cluster,
    ClusterError,
    NotFoundError,
    Object,
    UnavailableError,
    UnrecognizedError,
)
from sftjob_operator.execute import ActionExecutor
from sftjob_operator.metrics.operator import FailureCause, OperatorMetrics
from sftjob_operator.problem_lookup import ProblemLookup
from sftjob_operator.progress.availability import EndpointAvailability
from sftjob_operator.progress.identity import PodIdentity
from sftjob_operator.progress.write_rate import WriteRateLimiter
from sftjob_operator.reconcile import (
    Decision,
    Observed,
    Settings,
    awaits_cleanup,
    decide,
    decide_stop,
    is_finished,
    partly_readable,
    seconds_to_deadline,
    sidecar_pod_deletions_after_end,
    stop_reason,
    unreadable,
    usable_progress,
)
from sftjob_operator.report_store import ReportStore
from sftjob_operator.runtime.logs import LogDeduplicator
from sftjob_operator.runtime.workqueue import Clock, Key, WorkQueue
from sftjob_operator.status_writer import ActionError, StatusWriter, job_field

RESYNC_SECONDS: Final = 600
"""Interval of full listings, in case a watch missed a deletion."""
SETTLE_SECONDS: Final = 2.0
"""How long a status change that is neither a new phase nor a first report waits, so that several share one write."""
MOST_WRITES_PER_SECOND: Final = 20.0
"""Maximum average rate of such writes of all jobs together. Each is a revision of the whole job in etcd, and an event
of every watch. The rate is one in each default interval for 200 jobs that train."""
FIRST_LISTING_RETRY_SECONDS: Final = 5.0

_FAULT_MESSAGE: Final = (
    "Internal error: the operator cannot reconcile this job; its log has the traceback. It will retry."
)

log = logging.getLogger(__name__)
Body = Mapping[str, Any]


class Controller:
    """The queue of jobs, the work on each of them, and the input from watches and trainers."""

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
        self._cache = ClusterCache(cluster, namespaces)
        self._problems = ProblemLookup(cluster, clock)
        self._reports = ReportStore(settings.silence_seconds)
        self._logged: dict[str, str] = {}
        """By UID: the last logged refusal or fault, so that it is not logged at each try."""
        self._write_rate = WriteRateLimiter(interval_seconds, SETTLE_SECONDS, MOST_WRITES_PER_SECOND, clock.monotonic)
        self._log_dedup = LogDeduplicator(clock.monotonic)
        self.queue = WorkQueue(clock)
        self._executor = ActionExecutor(cluster, self._cache, self._reports, self.queue, clock)
        self._status_writer = StatusWriter(cluster, self._cache, self._write_rate, self.queue, clock)

    def use(self, settings: Settings) -> None:
        """Decide by these settings from now on; re-queue jobs that train, so that they get the changed values."""
        changed, self._settings = self._settings != settings, settings
        for key in self._cache.jobs.jobs() if changed else ():
            self.queue.add(key)

    def follow(self, availability: EndpointAvailability) -> None:
        """Use the endpoint's record of reports that it could not accept."""
        self._reports.follow(availability)

    # Input from watches and trainers

    def job_changed(self, body: Body) -> None:
        """Handle a job that was created, changed, or listed."""
        if (key := self._cache.jobs.put(body)) is not None:
            self.queue.add(key)

    def job_gone(self, body: Body) -> None:
        """Handle a deleted job. Garbage collection deletes its children."""
        if (key := self._cache.jobs.drop(body)) is not None:
            self._forget(key, body["metadata"]["uid"])

    def pod_changed(self, body: Body) -> None:
        """Handle a Pod that was created, changed, or listed."""
        if (key := self._cache.pods.put(body)) is not None:
            self.queue.add(key)

    def pod_gone(self, body: Body) -> None:
        """Handle a deleted Pod."""
        if (key := self._cache.pod_gone(body)) is not None:
            self.queue.add(key)

    def training_attempt(self, key: Key, identity: PodIdentity) -> int | None:
        """Return the attempt that a Pod runs for a job, or None if it is not the live train Pod of that very job."""
        return self._cache.training_attempt(key, identity)

    def report(self, key: Key, progress: Progress) -> None:
        """Store a trainer's report; the first one of an attempt is processed immediately.

        Raises:
            ValueError: it cannot be stored; the text explains why.
        """
        progress = usable_progress(progress)
        if (uid := self._uid(key)) is None:
            return
        known = self._reports.put(uid, progress, self._clock.now())
        if known is not None and known.progress.attempt == progress.attempt:
            self.queue.add_after(key, self._write_rate.seconds_until_allowed(uid))
        else:
            self.queue.add(key)

    def newest_progress(self, key: Key) -> Progress | None:
        """Return the newest report accepted for a job, of any attempt."""
        known = self._reports.report(self._uid(key) or "")
        return None if known is None else known.progress

    # Queries

    def jobs(self) -> Iterator[Object]:
        """Return every existing job, as last observed."""
        return self._cache.all_jobs()

    def unserved_namespaces(self) -> int:
        """Return how many namespaces are not served, because the server refuses to list them."""
        return len(self._cache.unserved)

    def newest_pod(self, job: str) -> tuple[int, str] | None:
        """Return attempt and name of the newest Pod of the job NAMESPACE/NAME; None before the first."""
        namespace, _, name = job.partition("/")
        return self._cache.newest_pod((namespace, name))

    # Work

    async def first_listing(self) -> None:
        """List what exists, with retries. No decision is possible before: unknown objects would seem missing."""
        while True:
            try:
                return await self.resync()
            except NotFoundError:
                if self._log_dedup.is_new("listing", "not served"):
                    log.warning("the CRD of SFTJobs is not installed: kubectl apply -f crds/sftjobs.yaml; retrying")
            except ClusterError as error:
                if self._log_dedup.is_new("listing", str(error)):
                    log.warning("cannot list SFTJobs and Pods: %s; retrying", error)
            await asyncio.sleep(FIRST_LISTING_RETRY_SECONDS)

    async def resync(self) -> None:
        """List all jobs and Pods, and queue every job that may need work.

        Raises:
            ClusterError: they could not be listed.
        """
        for key in await self._cache.resync():
            self.queue.add(key)
        uids = self._cache.uids()
        self._reports.keep_only(uids)
        self._logged = {uid: text for uid, text in self._logged.items() if uid in uids}
        self._status_writer.keep_only(uids)
        self._cache.keep_only(uids)

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
                log.warning("cannot list SFTJobs and Pods: %s; retrying in %s s", error, RESYNC_SECONDS)

    async def _work_forever(self) -> None:
        while True:
            await self.work()
            await asyncio.sleep(0)  # a job that needs nothing never yields: let requests and reports run

    async def work(self) -> None:
        """Process the next job from the queue; retry later after any error."""
        key = await self.queue.get()
        began = self._clock.monotonic()
        body = self._cache.job(key)
        try:
            if body is not None:
                await self._reconcile(key, body)
            self.queue.succeeded(key)
        except ActionError as refused:
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
        """Report in the job's conditions what prevents the operator from acting, unless the server recovers at once.

        The conditions of a job that has ended are final: an Event reports it instead.
        """
        passing = reason == ConditionReason.SERVER_UNAVAILABLE
        if body is None or (passing and not self.queue.has_failed(key, body["metadata"]["uid"])):
            return
        if is_finished(body):
            await self._status_writer.post_warning(body, reason, message)
            return
        try:
            await self._status_writer.write_blocked(key, self._cache.job(key) or body, reason, message)
        except ActionError as refused:
            log.info("cannot write the reason to the status: %s", refused.error, extra=job_field(key))

    def _failed(self, key: Key, body: Object | None, error: Exception, after_seconds: float = 0.0) -> None:
        """Retry failed work on a job later, and log it once for each wait, however often the job is queued."""
        refused = FailureCause.REFUSED if isinstance(error, ClusterError) else FailureCause.FAULT
        cause = FailureCause.UNAVAILABLE if isinstance(error, UnavailableError) else refused
        self._metrics.failed(cause)
        longer = max(after_seconds, getattr(error, "retry_after_seconds", None) or 0)
        uid = "" if body is None else body["metadata"]["uid"]
        cause_text = type(error).__name__ if cause is FailureCause.UNAVAILABLE else f"{type(error).__name__}: {error}"
        wait = self.queue.retry(key, uid, cause_text, longer)
        if wait is None:
            return
        if cause is FailureCause.FAULT:
            log.error("Internal error; retrying in %.3g s", wait, exc_info=error, extra=job_field(key))
        else:
            level = logging.WARNING if cause is FailureCause.UNAVAILABLE else logging.ERROR
            log.log(level, "%s; retrying in %.3g s", error, wait, extra=job_field(key))

    async def _reconcile(self, key: Key, body: Object) -> None:
        uid = body["metadata"]["uid"]
        now = self._clock.now()
        if is_finished(body):
            await self._executor.end_pods(key, uid, self._cache.late_pods(key, uid))
            if not awaits_cleanup(body):
                await self._finish(key, body, now)
                return
        try:
            job, unread = read_job(body)
        except InvalidJobError as error:
            if not is_finished(body) and "deletionTimestamp" not in body["metadata"]:
                await self._keep(key, body, str(error))
            return
        pods = await self._cache.gather_pods(key, job)
        start_problems = await self._problems.find(key, pods, now)
        observed = Observed(
            job=job,
            pods=pods,
            report=self._reports.report(uid),
            start_problems=start_problems,
            reachability=self._reports.reachability(uid, now),
            published_ca=self._reports.published_ca(uid),
        )
        decision = self._decide(key, observed)
        create_error = await self._executor.execute(key, job, decision.actions)
        if create_error is not None:
            if self._logged.get(uid) != create_error.message:
                log.warning("%s", create_error.message, extra=job_field(key))
                self._logged[uid] = create_error.message
            pods = await self._cache.gather_pods(key, job)  # including those that were created before it
            decision = self._decide(key, replace(observed, pods=pods, create_error=create_error))
            await self._executor.execute(key, job, decision.actions)
        await self._status_writer.write(key, body, decision, unread)
        now_there = self._cache.pods.get(key)  # including those that were just created
        if (wait := self._problems.seconds_until_next(key, now_there, now)) is not None:
            self.queue.add_after(key, wait)

    async def _keep(self, key: Key, body: Object, why: str) -> None:
        """Leave a job with an unreadable object unchanged, but stop its Pods if its readable part requires that."""
        now = self._clock.now()
        try:
            job, unread = read_partly(body)
        except InvalidJobError:
            await self._status_writer.write_blocked(
                key, body, ConditionReason.INVALID_SPEC, unreadable(why, stops=False)
            )
            return
        if (left := seconds_to_deadline(job, now)) is not None and left > 0:
            self.queue.add_after(key, left)
        decision = None
        if stop_reason(job, now) is not None:
            pods = await self._cache.gather_pods(key, job)
            observed = Observed(job=job, pods=pods, report=self._reports.report(job.metadata.uid))
            decision = decide_stop(observed, self._settings, now, partly_readable(why))
        if decision is None:
            await self._status_writer.write_blocked(
                key, body, ConditionReason.INVALID_SPEC, unreadable(why, stops=True)
            )
            return
        await self._executor.execute(key, job, decision.actions)
        await self._status_writer.write(key, body, decision, unread)

    async def _finish(self, key: Key, body: Object, now: datetime) -> None:
        """Delete the running Pods of a job that has ended, then forget it."""
        uid = body["metadata"]["uid"]
        own = (pod for pod in self._cache.pods.get(key) if pod.owner_uid == uid)
        deletions, wait = sidecar_pod_deletions_after_end(own, body["status"].get("completionTime"), now)
        await self._executor.delete_all(key, uid, deletions)
        if wait is None:
            self._forget(key, uid)
        else:
            self.queue.add_after(key, wait)

    def _decide(self, key: Key, observed: Observed) -> Decision:
        """Decide; if that raises, retry without data from inside the Pods: suspend and deadlines must still apply."""
        now, uid = self._clock.now(), observed.job.metadata.uid
        try:
            return decide(observed, self._settings, now)
        except Exception as error:  # noqa: BLE001 -- depends on data from a Pod
            fault = error
        quiet = replace(observed, report=None)
        for less in (quiet, replace(quiet, pods=tuple(replace(pod, outcome=None) for pod in observed.pods))):
            with suppress(Exception):
                decision = decide(less, self._settings, now)
                self._reports.drop_report(uid)
                self._metrics.failed(FailureCause.FAULT)
                if self._logged.get(uid) != repr(fault):
                    self._logged[uid] = repr(fault)
                    log.error(
                        "Internal error; decided without the reports of its Pods", exc_info=fault, extra=job_field(key)
                    )
                return decision
        raise fault

    def _uid(self, key: Key) -> str | None:
        body = self._cache.job(key)
        return None if body is None else str(body["metadata"]["uid"])

    def _forget(self, key: Key, uid: str) -> None:
        """Forget a job that has ended or no longer exists; a new job of the same name keeps its own memory."""
        self._reports.forget(uid)
        self._logged.pop(uid, None)
        self._status_writer.forget(uid)
        self._cache.forget(uid)
        if self._uid(key) in (None, uid):
            self._cache.pods.forget(key)
            self._problems.forget(key)
            self.queue.forget(key)
