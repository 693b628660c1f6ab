"""Metrics of the jobs: computed from their status at every scrape, so that a deleted job leaves no series."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from sftjob_operator.api import ConditionStatus, ConditionType, InvalidJobError, Phase, SFTJobStatus, parse_status
from sftjob_operator.metrics.goodput import goodput
from sftjob_operator.reconcile import is_finished, parse_time

Body = Mapping[str, Any]

_JOB: Final = ("job_namespace", "job_name")
"""Labels of every series about one job. Not `namespace` and `job`: a scraper sets those itself, for the operator."""
_READ: Final = ("phase", "method", "startTime", "completionTime", "progress", "attempts")
"""Fields of a status that are read, in addition to its newest checkpoint."""
_OF_PROGRESS: Final = (
    ("sftjob_job_step", "Optimizer steps done.", "step"),
    ("sftjob_job_max_steps", "Optimizer steps of the whole run.", "max_steps"),
    ("sftjob_job_loss", "Mean training loss over the last logging window.", "loss"),
    ("sftjob_job_eval_loss", "Newest evaluation loss, per token.", "eval_loss"),
    ("sftjob_job_tokens_per_second", "Speed of the running attempt over all devices.", "tokens_per_second"),
    ("sftjob_job_mfu_ratio", "Share of the devices' peak that the model's own arithmetic uses.", "mfu"),
    ("sftjob_job_eta_seconds", "Time until the last step, at the present speed.", "eta_seconds"),
)


class JobMetrics(Collector):
    """Counts of all jobs by phase and reason, and series for `limit` jobs.

    Those are the unfinished ones, then the youngest. `jobs` returns the bodies of all jobs, `now` the time.
    """

    def __init__(self, jobs: Callable[[], Iterable[Body]], now: Callable[[], datetime], limit: int) -> None:
        self._jobs = jobs
        self._now = now
        self._limit = limit

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Return the families without samples, so that a registry need not collect to know their names."""
        yield from _families().values()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """See Collector."""
        bodies = sorted(self._jobs(), key=_rank, reverse=True)
        families = _families()
        for (phase, reason), number in sorted(Counter(map(_phase_and_reason, bodies)).items()):
            families["sftjob_jobs"].add_metric((phase, reason), number)
        families["sftjob_jobs_left_out"].add_metric((), max(0, len(bodies) - self._limit))
        now = self._now()
        for body in bodies[: self._limit]:
            _add(families, body, now)
        yield from families.values()


def _families() -> dict[str, GaugeMetricFamily]:
    families = (
        GaugeMetricFamily("sftjob_jobs", "SFTJobs by phase, and why they are in it.", labels=("phase", "reason")),
        GaugeMetricFamily("sftjob_jobs_left_out", "SFTJobs that have no series of their own, by the limit.", labels=()),
        GaugeMetricFamily("sftjob_job_info", "1 for an SFTJob.", labels=(*_JOB, "phase", "method")),
        *(GaugeMetricFamily(name, text, labels=_JOB) for name, text, _ in _OF_PROGRESS),
        GaugeMetricFamily("sftjob_job_attempts", "Attempts so far.", labels=(*_JOB, "stage")),
        GaugeMetricFamily("sftjob_job_checkpoint_timestamp_seconds", "When the newest was complete.", labels=_JOB),
        GaugeMetricFamily("sftjob_job_last_report_timestamp_seconds", "When its trainer last reported.", labels=_JOB),
        GaugeMetricFamily("sftjob_job_time_seconds", "Life so far, by what it was used for.", labels=(*_JOB, "use")),
    )
    return {family.name: family for family in families}


def _rank(body: Body) -> tuple[bool, str, str, str]:
    metadata = body["metadata"]
    return not is_finished(body), metadata["creationTimestamp"], metadata["namespace"], metadata["name"]


def _phase_and_reason(body: Body) -> tuple[str, str]:
    """Return the phase, and the reason of the first condition that does not have its final state."""
    status = body.get("status") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    passed = (
        (ConditionType.SUCCEEDED, ConditionStatus.UNKNOWN),
        (ConditionType.PREPARED, ConditionStatus.TRUE),
        (ConditionType.RUNNING, None),
    )
    for type_, final in passed:
        if type_ in conditions and conditions[type_]["status"] != final:
            return status.get("phase") or Phase.PENDING, conditions[type_]["reason"]
    return status.get("phase") or Phase.PENDING, ""


def _add(families: Mapping[str, GaugeMetricFamily], body: Body, now: datetime) -> None:
    """Add the series of one job. A job whose status cannot be read has no series."""
    metadata, stored = body["metadata"], body.get("status") or {}
    job = (metadata["namespace"], metadata["name"])
    read = {name: stored[name] for name in _READ if name in stored}
    try:
        status = parse_status({**read, "checkpoints": (stored.get("checkpoints") or ())[-1:]})
    except InvalidJobError:
        return
    families["sftjob_job_info"].add_metric((*job, status.phase or Phase.PENDING, status.method or ""), 1)
    for name, _, field in _OF_PROGRESS:
        if (value := getattr(status.progress, field, None)) is not None:
            families[name].add_metric(job, value)
    for stage, attempts in Counter(entry.stage for entry in status.attempts).items():
        families["sftjob_job_attempts"].add_metric((*job, stage), attempts)
    for name, time in _moments(status):
        families[name].add_metric(job, parse_time(time).timestamp())
    for use, seconds in goodput(status, metadata["creationTimestamp"], now).items():
        families["sftjob_job_time_seconds"].add_metric((*job, use), seconds)


def _moments(status: SFTJobStatus) -> Iterator[tuple[str, str]]:
    if status.checkpoints:
        yield "sftjob_job_checkpoint_timestamp_seconds", status.checkpoints[-1].time
    if status.progress is not None and status.progress.last_report_time is not None:
        yield "sftjob_job_last_report_timestamp_seconds", status.progress.last_report_time
