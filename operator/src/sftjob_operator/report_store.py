"""Received reports, and what may have prevented others from arriving."""

from collections.abc import Container
from dataclasses import dataclass
from datetime import datetime, timedelta

from sftjob_contract.reports.progress import Progress
from sftjob_operator.progress.availability import EndpointAvailability
from sftjob_operator.reconcile import Reachability, Report


@dataclass(frozen=True, slots=True)
class _PublishedCa:
    text: str
    changed: datetime | None


class ReportStore:
    """The newest report of each job, by its UID: a job that is recreated under the same name inherits nothing."""

    def __init__(self, silence_seconds: float) -> None:
        self._silence = timedelta(seconds=silence_seconds)
        self._reports: dict[str, Report] = {}
        self._published: dict[str, _PublishedCa] = {}
        self._availability: EndpointAvailability | None = None

    def follow(self, availability: EndpointAvailability) -> None:
        """Use the endpoint's record of reports that it could not accept."""
        self._availability = availability

    def put(self, uid: str, progress: Progress, now: datetime) -> Report | None:
        """Store a report; return the previous one."""
        before = self._reports.get(uid)
        self._reports[uid] = Report(progress=progress, received=now)
        return before

    def report(self, uid: str) -> Report | None:
        """Return the newest report."""
        return self._reports.get(uid)

    def published(self, uid: str, ca: str, changed: datetime | None) -> None:
        """Record the CA in a job's ConfigMap; `changed` is when it replaced another one, None if it did not change."""
        before = self._published.get(uid)
        self._published[uid] = _PublishedCa(ca, changed or (None if before is None else before.changed))

    def published_ca(self, uid: str) -> str | None:
        """Return the CA that a job's ConfigMap is known to have."""
        known = self._published.get(uid)
        return None if known is None else known.text

    def reachability(self, uid: str, now: datetime) -> Reachability:
        """Return what, other than a hung trainer, may have prevented a job's reports from arriving."""
        published = self._published.get(uid)
        served = None if self._availability is None else self._availability.certificate_since
        changes = [time for time in (None if published is None else published.changed, served) if time is not None]
        return Reachability(
            available_since=None if self._availability is None else self._availability.available_since,
            certificate_since=max(changes, default=None),
            silent_together=self._silent_together(uid, now),
        )

    def drop_report(self, uid: str) -> None:
        """Forget a report from which no decision is possible."""
        self._reports.pop(uid, None)

    def forget(self, uid: str) -> None:
        """Forget a job that has ended or no longer exists."""
        self._reports.pop(uid, None)
        self._published.pop(uid, None)

    def keep_only(self, uids: Container[str]) -> None:
        """Forget all other jobs."""
        self._reports = {uid: report for uid, report in self._reports.items() if uid in uids}
        self._published = {uid: ca for uid, ca in self._published.items() if uid in uids}

    def _silent_together(self, uid: str, now: datetime) -> bool:
        """Whether this job is silent, and at least as many others fell silent with it as reported after that."""
        own = self._reports.get(uid)
        if own is None or now - own.received <= self._silence:
            return False
        others = [report.received - own.received for other, report in self._reports.items() if other != uid]
        with_it = sum(abs(apart) <= self._silence for apart in others)
        after_it = sum(apart > self._silence for apart in others)
        return with_it > 0 and with_it >= after_it
