"""The whole status that follows from a finding."""

from sftjob_contract.destinations import Retain
from sftjob_contract.names import Stage
from sftjob_contract.outcome import Outcome
from sftjob_contract.reasons import Reason
from sftjob_operator.api import (
    AttemptStatus,
    Condition,
    ConditionStatus,
    ConditionType,
    OutputStatus,
    Phase,
    ProvenanceStatus,
    SFTJobStatus,
    replace,
    set_condition,
)
from sftjob_operator.reconcile.attempts import bounded
from sftjob_operator.reconcile.endings import seconds_to_ending, signs
from sftjob_operator.reconcile.lifetime import seconds_to_deadline
from sftjob_operator.reconcile.progress import with_columns
from sftjob_operator.reconcile.reporting import reporting
from sftjob_operator.reconcile.sentences import moved_aside
from sftjob_operator.reconcile.situation import NOT_ENDED, Finding, Said, Situation
from sftjob_operator.reconcile.times import known_time, parse_time, rfc3339
from sftjob_operator.reconcile.training import with_training
from sftjob_operator.render import method_name, volume_uri

_LONGEST_IMAGE = 1024
_MOST_FOREIGN_CONDITIONS = 8
"""Conditions of other controllers that are kept beside the operator's own; a status holds 16."""


def status_of(at: Situation, finding: Finding) -> tuple[SFTJobStatus, float | None]:
    """The status, and in how many seconds it may change by the clock alone."""
    now = rfc3339(at.now)
    said, silence = reporting(at, finding.phase)
    status = with_training(at)
    attempts = (*at.attempts, finding.started) if finding.started is not None else at.attempts
    status = replace(
        status,
        phase=finding.phase,
        observed_generation=at.job.metadata.generation,
        method=method_name(at.job),
        start_time=status.start_time or now,
        completion_time=_completion_time(at, finding),
        conditions=_conditions(at, finding, said),
        attempts=bounded(attempts),
        adjustments=at.adjustments,
        interruptions=at.interruptions or None,
        moved_aside=moved_aside(at),
        plan=at.plan,
        output=_output(at) if finding.phase == Phase.SUCCEEDED else status.output,
        provenance=_provenance(at),
    )
    if finding.phase == Phase.SUCCEEDED and at.unpublished and at.job.spec.output.retain is Retain.OUTPUT:
        status = replace(status, checkpoints=(), latest_checkpoint=None, best_checkpoint=None)
    status = with_columns(status, at.job)
    left = seconds_to_deadline(at.job, at.now) if finding.succeeded.status == ConditionStatus.UNKNOWN else None
    deadline = left if left is not None and left > 0 else None
    silence_seconds = at.settings.silence_seconds
    endings = [
        seconds_to_ending(group, signs(group, at.attempts, at.heartbeat, silence_seconds), at.now)
        for group in at.groups
    ]
    settling = [seconds for pod in at.live_pods if (seconds := at.settling_seconds(pod)) > 0]
    due = [s for s in (finding.recheck_seconds, silence, deadline, *endings, *settling) if s is not None]
    return status, min(due, default=None)


def _conditions(at: Situation, finding: Finding, reports: Said) -> tuple[Condition, ...]:
    said = {
        ConditionType.PREPARED: finding.prepared,
        ConditionType.RUNNING: finding.running,
        ConditionType.PROGRESS_REPORTING: reports,
        ConditionType.SUCCEEDED: _so_far(finding) if finding.succeeded is NOT_ENDED else finding.succeeded,
    }
    known = {each.type: each for each in at.job.status.conditions}
    foreign = [type_ for type_ in known if type_ not in said]
    kept = {*said, *foreign[:_MOST_FOREIGN_CONDITIONS]}
    conditions = tuple(each for type_, each in known.items() if type_ in kept)
    now = rfc3339(at.now)
    for type_, what in said.items():
        if what is not None:
            conditions = set_condition(conditions, condition(type_, what, at.job.metadata.generation, now), now)
    return conditions


def _so_far(finding: Finding) -> Said:
    """What a job that has not ended does or waits for: the most telling of its other conditions."""
    unprepared = finding.prepared is not None and finding.prepared.status != ConditionStatus.TRUE
    told = finding.prepared if unprepared else finding.running
    return NOT_ENDED if told is None else Said(status=NOT_ENDED.status, reason=told.reason, message=told.message)


def condition(type_: ConditionType, said: Said, generation: int, now: str) -> Condition:
    """A Condition of the API from what was said."""
    return Condition(
        type=type_,
        status=said.status,
        observed_generation=generation,
        last_transition_time=now,
        reason=said.reason,
        message=said.message,
    )


def _completion_time(at: Situation, finding: Finding) -> str | None:
    if finding.succeeded.status == ConditionStatus.UNKNOWN:
        return None
    last = _newest(at)
    by_its_pod = last is not None and finding.succeeded.reason != Reason.DEADLINE_EXCEEDED
    ended = known_time(last.end_time) if last is not None and by_its_pod else None
    return rfc3339(at.now if ended is None else min(parse_time(ended), at.now))


def _newest(at: Situation) -> AttemptStatus | None:
    """The newest attempt of the latest stage."""
    return at.last(Stage.PUBLISH) or at.last(Stage.TRAIN) or at.last(Stage.PREPARE)


def _output(at: Situation) -> OutputStatus | None:
    outcome = _outcome(at, at.last(Stage.PUBLISH) or at.last(Stage.TRAIN))
    if outcome is None or outcome.output is None:
        return None
    told = outcome.output
    uri = volume_uri(at.job, told.path)
    return OutputStatus(uri=uri, metrics=dict(told.metrics), uploaded=told.uploaded or None)


def _provenance(at: Situation) -> ProvenanceStatus | None:
    """What is known so far; what a Pod that is gone had told stays."""
    known = at.job.status.provenance or ProvenanceStatus()
    if (stats := at.stats) is not None:
        known = replace(known, model_revision=stats.model_revision, dataset_fingerprint=stats.dataset_fingerprint)
    for view in at.pods:
        if view.image_id is not None:
            known = replace(known, image=view.image_id[:_LONGEST_IMAGE])
        if view.config_hash is not None:
            known = replace(known, config_hash=view.config_hash)
        if view.outcome is not None and view.outcome.libraries is not None:
            known = replace(known, libraries=dict(view.outcome.libraries))
    return known if known != ProvenanceStatus() else None


def _outcome(at: Situation, attempt: AttemptStatus | None) -> Outcome | None:
    pod = at.pod_of(attempt) if attempt is not None else None
    return pod.outcome if pod is not None else None
