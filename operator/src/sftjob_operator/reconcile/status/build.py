"""Build the whole status from a result."""

from sftjob_contract.names import Stage
from sftjob_contract.reasons import Reason
from sftjob_contract.run.destinations import Retain
from sftjob_operator.api import (
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
from sftjob_operator.reconcile.attempts.deadline import seconds_to_deadline
from sftjob_operator.reconcile.attempts.ledger import bounded
from sftjob_operator.reconcile.attempts.timeouts import seconds_to_timeout, timeout_inputs
from sftjob_operator.reconcile.messages.sentences import moved_aside
from sftjob_operator.reconcile.observe.times import known_time, parse_time, rfc3339
from sftjob_operator.reconcile.reports.status_parts import with_columns
from sftjob_operator.reconcile.snapshot import NOT_ENDED, CheckResult, ConditionState, Snapshot
from sftjob_operator.reconcile.status.progress_reporting import reporting
from sftjob_operator.render import method_name, volume_uri

_LONGEST_IMAGE = 1024
_MOST_FOREIGN_CONDITIONS = 8
"""Maximum conditions of other controllers that are kept beside the operator's own; a status holds 16."""


def status_of(snapshot: Snapshot, result: CheckResult) -> tuple[SFTJobStatus, float | None]:
    """Return the status, and the seconds until it may change by the clock alone."""
    now = rfc3339(snapshot.now)
    reporting_state, silence = reporting(snapshot, result.phase)
    attempts = (*snapshot.attempts, result.started) if result.started is not None else snapshot.attempts
    status = replace(
        snapshot.training,
        phase=result.phase,
        observed_generation=snapshot.job.metadata.generation,
        method=method_name(snapshot.job),
        start_time=snapshot.training.start_time or now,
        completion_time=_completion_time(snapshot, result),
        conditions=_conditions(snapshot, result, reporting_state),
        attempts=bounded(attempts),
        adjustments=snapshot.adjustments,
        interruptions=snapshot.interruptions or None,
        moved_aside=moved_aside(snapshot),
        plan=snapshot.plan,
        output=_output(snapshot) if result.phase == Phase.SUCCEEDED else snapshot.training.output,
        provenance=_provenance(snapshot),
    )
    if result.phase == Phase.SUCCEEDED and snapshot.unpublished and snapshot.job.spec.output.retain is Retain.OUTPUT:
        status = replace(status, checkpoints=(), latest_checkpoint=None, best_checkpoint=None)
    status = with_columns(status, snapshot.job)
    left = (
        seconds_to_deadline(snapshot.job, snapshot.now) if result.succeeded.status == ConditionStatus.UNKNOWN else None
    )
    deadline = left if left is not None and left > 0 else None
    silence_seconds = snapshot.settings.silence_seconds
    timeouts = [
        seconds_to_timeout(
            group, timeout_inputs(group, snapshot.attempts, snapshot.heartbeat, silence_seconds), snapshot.now
        )
        for group in snapshot.groups
    ]
    settling = [seconds for pod in snapshot.live_pods if (seconds := snapshot.settling_seconds(pod)) > 0]
    due = [s for s in (result.recheck_seconds, silence, deadline, *timeouts, *settling) if s is not None]
    return status, min(due, default=None)


def _conditions(snapshot: Snapshot, result: CheckResult, reporting_state: ConditionState) -> tuple[Condition, ...]:
    states = {
        ConditionType.PREPARED: result.prepared,
        ConditionType.RUNNING: result.running,
        ConditionType.PROGRESS_REPORTING: reporting_state,
        ConditionType.SUCCEEDED: _not_ended_state(result) if result.succeeded is NOT_ENDED else result.succeeded,
    }
    known = {each.type: each for each in snapshot.job.status.conditions}
    foreign = [type_ for type_ in known if type_ not in states]
    kept = {*states, *foreign[:_MOST_FOREIGN_CONDITIONS]}
    conditions = tuple(each for type_, each in known.items() if type_ in kept)
    now = rfc3339(snapshot.now)
    for type_, state in states.items():
        if state is not None:
            conditions = set_condition(conditions, condition(type_, state, snapshot.job.metadata.generation, now), now)
    return conditions


def _not_ended_state(result: CheckResult) -> ConditionState:
    """Return what a job that has not ended does or waits for: the most specific of its other conditions."""
    unprepared = result.prepared is not None and result.prepared.status != ConditionStatus.TRUE
    state = result.prepared if unprepared else result.running
    if state is None:
        return NOT_ENDED
    return ConditionState(status=NOT_ENDED.status, reason=state.reason, message=state.message)


def condition(type_: ConditionType, state: ConditionState, generation: int, now: str) -> Condition:
    """Convert to a Condition of the API."""
    return Condition(
        type=type_,
        status=state.status,
        observed_generation=generation,
        last_transition_time=now,
        reason=state.reason,
        message=state.message,
    )


def _completion_time(snapshot: Snapshot, result: CheckResult) -> str | None:
    if result.succeeded.status == ConditionStatus.UNKNOWN:
        return None
    last = snapshot.last(Stage.PUBLISH) or snapshot.last(Stage.TRAIN) or snapshot.last(Stage.PREPARE)
    by_its_pod = last is not None and result.succeeded.reason != Reason.DEADLINE_EXCEEDED
    ended = known_time(last.end_time) if last is not None and by_its_pod else None
    return rfc3339(snapshot.now if ended is None else min(parse_time(ended), snapshot.now))


def _output(snapshot: Snapshot) -> OutputStatus | None:
    last = snapshot.last(Stage.PUBLISH) or snapshot.last(Stage.TRAIN)
    pod = snapshot.pod_of(last) if last is not None else None
    outcome = pod.outcome if pod is not None else None
    if outcome is None or outcome.output is None:
        return None
    output = outcome.output
    uri = volume_uri(snapshot.job, output.path)
    return OutputStatus(uri=uri, metrics=dict(output.metrics), uploaded=output.uploaded or None)


def _provenance(snapshot: Snapshot) -> ProvenanceStatus | None:
    """Merge what is known so far; values from a Pod that is gone stay."""
    known = snapshot.job.status.provenance or ProvenanceStatus()
    if (stats := snapshot.stats) is not None:
        known = replace(known, model_revision=stats.model_revision, dataset_fingerprint=stats.dataset_fingerprint)
    for view in snapshot.pods:
        if view.image_id is not None:
            known = replace(known, image=view.image_id[:_LONGEST_IMAGE])
        if view.config_hash is not None:
            known = replace(known, config_hash=view.config_hash)
        if view.outcome is not None and view.outcome.libraries is not None:
            known = replace(known, libraries=dict(view.outcome.libraries))
    return known if known != ProvenanceStatus() else None
