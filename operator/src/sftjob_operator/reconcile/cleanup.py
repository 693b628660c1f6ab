"""Cleanup of a finished job's Pods and volume when its time to live has passed."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from sftjob_operator.api import Condition, ConditionType, SFTJob, replace
from sftjob_operator.reconcile.observe.attempt_pods import pod_names
from sftjob_operator.reconcile.observe.observed import Decision, Delete, Observed
from sftjob_operator.reconcile.observe.times import parse_time, rfc3339
from sftjob_operator.reconcile.reports.status_parts import with_columns
from sftjob_operator.render import config_map_name, service_name, volume_claim_name


def clean_up(observed: Observed, now: datetime) -> Decision:
    """Delete the children of a finished job spec.ttlSecondsAfterFinished after its end, once; keep the job itself."""
    job = observed.job
    seen = with_columns(replace(job.status, observed_generation=job.metadata.generation), job)
    ttl, ended = job.spec.ttl_seconds_after_finished, seen.completion_time
    if ttl is None or ended is None or seen.cleanup_time is not None:
        return Decision(status=seen)
    left = (parse_time(ended) + timedelta(seconds=ttl) - now).total_seconds()
    if left > 0:
        return Decision(status=seen, recheck_seconds=left)
    conditions = tuple(_with_cleanup_note(condition, job, ttl) for condition in seen.conditions)
    status = replace(seen, conditions=conditions, cleanup_time=rfc3339(now))
    return Decision(status=status, actions=tuple(_children(observed)))


def _children(observed: Observed) -> Iterator[Delete]:
    """Pods first, since a claim is removed only when nothing uses it. Unobserved children are looked up by name."""
    job = observed.job
    known = {pod.name: pod.uid for pod in observed.pods if pod.owner_uid == job.metadata.uid}
    recorded = [name for attempt in job.status.attempts for name in pod_names(job, attempt.stage, attempt.number)]
    for name in dict.fromkeys((*known, *recorded)):
        yield Delete(kind="Pod", name=name, uid=known.get(name))
    if job.spec.resources.nodes > 1:
        yield Delete(kind="Service", name=service_name(job))
    yield Delete(kind="ConfigMap", name=config_map_name(job))
    if not _keeps_volume(job):
        yield Delete(kind="PersistentVolumeClaim", name=volume_claim_name(job))


def _keeps_volume(job: SFTJob) -> bool:
    return job.spec.storage.retain or job.spec.storage.existing_claim is not None


def _with_cleanup_note(condition: Condition, job: SFTJob, ttl: int) -> Condition:
    """Condition Succeeded with a sentence about the deleted objects."""
    if condition.type != ConditionType.SUCCEEDED:
        return condition
    gone = "Its Pods were deleted" if _keeps_volume(job) else "Its Pods and volume were deleted"
    kept = "; the volume is kept." if _keeps_volume(job) else "."
    message = f"{condition.message} {gone} after {ttl:,} s (spec.ttlSecondsAfterFinished){kept}"
    return replace(condition, message=message)
