"""The reports that this process received, and what may have kept others from arriving."""

from collections.abc import Container
from dataclasses import dataclass
from datetime import datetime, timedelta

from sftjob_contract.progress import Progress
from sftjob_operator.progress.reception import Reception
from sftjob_operator.reconcile import Reachability, Report


@dataclass(frozen=True, slots=True)
class _PublishedCa:
    text: str
    changed: datetime | None


class ReportStore:
    """The newest report of each job, by its uid: a job that was created again under a name inherits nothing."""

    def __init__(self, silence_seconds: float) -> None:
        self._together = timedelta(seconds=silence_seconds)
        self._reports: dict[str, Report] = {}
        self._published: dict[str, _PublishedCa] = {}
        self._reception: Reception | None = None

    def follow(self, reception: Reception) -> None:
        """Take into account what the endpoint knows of reports that it could not take."""
        self._reception = reception

    def put(self, uid: str, progress: Progress, now: datetime) -> Report | None:
        """Store a report; returns the one before."""
        before = self._reports.get(uid)
        self._reports[uid] = Report(progress=progress, received=now)
        return before

    def report(self, uid: str) -> Report | None:
        """The newest report."""
        return self._reports.get(uid)

    def published(self, uid: str, ca: str, changed: datetime | None) -> None:
        """The ConfigMap of a job has this CA; `changed` is when it was written over another, None if it had it."""
        before = self._published.get(uid)
        self._published[uid] = _PublishedCa(ca, changed or (None if before is None else before.changed))

    def published_ca(self, uid: str) -> str | None:
        """What the ConfigMap of a job is known to have."""
        known = self._published.get(uid)
        return None if known is None else known.text

    def reachability(self, uid: str, now: datetime) -> Reachability:
        """What may have kept the reports of a job from arriving, other than a hung trainer."""
        published = self._published.get(uid)
        served = None if self._reception is None else self._reception.certificate_since
        changes = [time for time in (None if published is None else published.changed, served) if time is not None]
        return Reachability(
            undisturbed_since=None if self._reception is None else self._reception.undisturbed_since,
            certificate_since=max(changes, default=None),
            silent_together=self._silent_together(uid, now),
        )

    def drop_report(self, uid: str) -> None:
        """Forget a report that no decision can be made from."""
        self._reports.pop(uid, None)

    def forget(self, uid: str) -> None:
        """The job has ended or is gone."""
        self._reports.pop(uid, None)
        self._published.pop(uid, None)

    def keep_only(self, uids: Container[str]) -> None:
        """Forget all other jobs."""
        self._reports = {uid: report for uid, report in self._reports.items() if uid in uids}
        self._published = {uid: ca for uid, ca in self._published.items() if uid in uids}

    def _silent_together(self, uid: str, now: datetime) -> bool:
        """Whether this job is silent, and as many others or more stopped reporting when it did as reported after it."""
        mine = self._reports.get(uid)
        if mine is None or now - mine.received <= self._together:
            return False
        others = [report.received - mine.received for other, report in self._reports.items() if other != uid]
        with_it = sum(abs(apart) <= self._together for apart in others)
        after_it = sum(apart > self._together for apart in others)
        return with_it > 0 and with_it >= after_it
