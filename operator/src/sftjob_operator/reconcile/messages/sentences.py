"""Sentences for conditions: what happened, where to look, what to change."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from sftjob_contract.names import Stage
from sftjob_contract.reasons import Reason
from sftjob_operator.api import AttemptStatus, PlanStatus, SFTJob, replace
from sftjob_operator.reconcile.attempts.failure_reasons import POLICIES
from sftjob_operator.reconcile.attempts.unschedulable import unschedulable_hint
from sftjob_operator.reconcile.observe.observed import PodPhase, PodProblem, PodView
from sftjob_operator.reconcile.observe.starting import PULL_FAILURES, STARTING
from sftjob_operator.reconcile.reports.pods import owner_uid
from sftjob_operator.reconcile.snapshot import Snapshot
from sftjob_operator.render import MOST_SAVING_SECONDS, grace_seconds, saves_on_termination, volume_uri

TRAINED: Final = "Training is complete; the Publish stage comes next."
_WORD: Final = re.compile("[A-Z][A-Za-z]{2,63}")


def log_hint(job: SFTJob, pod: str) -> str:
    """Return how to view a Pod's log."""
    return f"Log: kubectl logs -n {job.metadata.namespace} {pod}"


def closed(sentence: str | None) -> str:
    """Return a message as a sentence that another may follow."""
    text = (sentence or "no message").rstrip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


def pod_waits(snapshot: Snapshot, pod: PodView, otherwise: str) -> tuple[str, str]:
    """Return why a Pod has not started: a reason, which is `otherwise` if nothing is wrong, and whole sentences."""
    found = snapshot.start_problems.get(pod.uid)
    if pod.unschedulable and not snapshot.settling_seconds(pod):
        return _unschedulable(snapshot, pod, pod.unschedulable, found)
    if pod.reason and pod.reason not in STARTING:
        message = f"Pod {pod.name} waits with {pod.reason}: {pod.message or 'no message given'}"
        if pod.reason in PULL_FAILURES:
            reason = Reason.IMAGE_PULL_FAILED
            return reason, f"{closed(message)} {POLICIES[reason].hint}"
        return _word(pod.reason, otherwise), message
    if pod.problem is not None:
        return _word(pod.problem.reason, otherwise), f"Pod {pod.name} waits. {closed(pod.problem.message)}"
    if found is not None:
        return _word(found.reason, otherwise), f"Pod {pod.name} waits: {closed(found.message)}"
    return otherwise, f"Pod {pod.name} was created; its container has not started."


def _unschedulable(snapshot: Snapshot, pod: PodView, message: str, found: PodProblem | None) -> tuple[str, str]:
    """Return the scheduler's message, the state of the volume claim that it names, and what to change."""
    about_claim = "" if found is None else f" {closed(found.message)}"
    hint = unschedulable_hint(snapshot.job, f"{message} {about_claim}")
    return Reason.UNSCHEDULABLE, f"{closed(f'Pod {pod.name} cannot be scheduled: {message}')}{about_claim} {hint}"


def _word(reason: str, otherwise: str) -> str:
    """Return a kubelet's reason as the reason of a condition, if it is a valid one."""
    return reason if _WORD.fullmatch(reason) else otherwise


def pod_is_gated(job: SFTJob, pod: PodView) -> str:
    """Return what a Pod waits for before it is scheduled."""
    queue = job.spec.scheduling.queue_name
    gate = f"queue {queue} admits it" if queue is not None else "its scheduling gates are removed"
    return f"Pod {pod.name} waits until {gate}."


def pods_stop(pods: Iterable[PodView]) -> str:
    """Return which Pods are terminating."""
    first, *others = pods
    place = f" on node {first.node}" if first.node else ""
    return f"Pod {first.name}{place}{f' and {len(others)} more are' if others else ' is'} terminating."


def progress_sentence(snapshot: Snapshot) -> str:
    """Return the progress of a job that does not run."""
    if snapshot.last(Stage.TRAIN) is None:
        return prepared_sentence(snapshot) if snapshot.prepared else "Nothing has been prepared yet."
    if snapshot.unpublished:
        return TRAINED
    status = snapshot.training
    if status.progress is None:
        return "No training step has been reported."
    step = f"Training reached step {status.progress.step:,} of {status.progress.max_steps:,}"
    if snapshot.job.spec.command is not None:
        return f"{step}; only the command knows what it saved."
    if status.latest_checkpoint is None:
        return f"{step}; there is no checkpoint yet."
    return f"{step}; the newest checkpoint is {status.latest_checkpoint}."


def pod_runs(snapshot: Snapshot, pod: PodView) -> str:
    """Return where a stage runs, and where it started from."""
    if pod.phase == PodPhase.UNKNOWN:
        return f"{silent_node(pod)} A new attempt starts after the Pod is deleted."
    attempt = next((a for a in snapshot.attempts if (a.stage, a.number) == (pod.stage, pod.attempt)), None)
    notes = [f"It resumed from step {attempt.from_step}."] if attempt is not None and attempt.from_step else []
    notes += [closed(attempt.message)] if attempt is not None and attempt.message else []
    notes += [closed(pod.problem.message)] if pod.problem is not None else []
    notes += [node] if (node := silent_node(pod)) is not None else []
    notes += [short] if (short := grace_is_short(snapshot, pod)) is not None else []
    return " ".join([f"Attempt {pod.attempt} runs in Pod {pod.name}.", *notes, log_hint(snapshot.job, pod.name)])


def silent_node(pod: PodView) -> str | None:
    """Return a sentence if the Pod's own status shows that its node does not respond; else None."""
    if pod.phase != PodPhase.UNKNOWN and not pod.node_silent:
        return None
    return f"Node {pod.node} of Pod {pod.name} is not ready (NotReady): kubectl describe node {pod.node}."


def grace_is_short(snapshot: Snapshot, pod: PodView) -> str | None:
    """Return a sentence if a running Pod would be killed before it has saved, by the measured save time; else None."""
    takes, grace = snapshot.training.stop_seconds, pod.grace_seconds
    if takes is None or grace is None or takes <= grace or not saves_on_termination(snapshot.job, pod.stage):
        return None
    measured = replace(snapshot.job.status, stop_seconds=takes)
    enough = grace_seconds(replace(snapshot.job, status=measured), pod.stage)
    short = f"A stop with its checkpoint takes about {takes:.0f} s, and Pod {pod.name} has a grace period of {grace} s"
    if enough < takes:
        return (
            f"{short}, of at most {MOST_SAVING_SECONDS} s. In a new job, use faster storage for the volume, or lower "
            "checkpoints.everySteps."
        )
    return (
        f"{short}: a stop now loses the steps since the last checkpoint. The next Pod gets {enough} s; to apply that "
        "now, set spec.suspend to true and back to false right after a checkpoint."
    )


def prepared_sentence(snapshot: Snapshot) -> str:
    """Return the statistics of the data from Prepare."""
    if snapshot.job.spec.command is not None:
        return "Nothing to prepare: spec.command loads model and data itself."
    text = _counts(snapshot.plan) if snapshot.plan is not None else "Model and data are prepared."
    return text if (moved := moved_aside(snapshot)) is None else f"{text} {moved}"


def moved_aside(snapshot: Snapshot) -> str | None:
    """Return what Prepare renamed on the volume; once its Pod is gone, the recorded value in the status."""
    reported = [
        pod.outcome.moved_aside for pod in snapshot.pods if pod.outcome is not None and pod.stage == Stage.PREPARE
    ]
    known = next((sentence for sentence in reversed(reported) if sentence is not None), snapshot.job.status.moved_aside)
    return None if snapshot.job.spec.recipe is None else known


def completed(snapshot: Snapshot, last: AttemptStatus) -> str:
    """Return the result of a finished run."""
    pod = snapshot.pod_of(last)
    outcome = pod.outcome if pod is not None else None
    if snapshot.job.spec.command is not None:
        volume = volume_uri(snapshot.job, "").rstrip("/")
        return f"The command ended with exit code 0; its files on the job's volume are at {volume}."
    if outcome is None or outcome.output is None:
        uri = volume_uri(snapshot.job, "output")
        return f"Training is complete; the output is in {uri}. Its final metrics are not known."
    metrics = outcome.output.metrics
    before, after = metrics.get("initialEvalLoss"), metrics.get("evalLoss")
    change = (
        f" Evaluation loss went from {before:.4g} to {after:.4g}." if before is not None and after is not None else ""
    )
    places = " and ".join((volume_uri(snapshot.job, outcome.output.path), *outcome.output.uploaded))
    return f"Training is complete; the output is at {places}.{change}"


def _counts(plan: PlanStatus) -> str:
    """Evaluation rows may be held out, or come from a split or a separate source."""
    evaluation = f" and {plan.evaluation_rows:,} evaluation rows" if plan.evaluation_rows else ""
    rows = f"{plan.train_rows:,} training rows{evaluation} are prepared"
    return f"{rows}: {plan.tokens:,} training tokens, {plan.steps:,} steps."


def name_conflict(body: Mapping[str, Any]) -> str:
    """Return why a child cannot be created whose name the object `body` of another owner has."""
    child, name = f"{body['kind']} {body['metadata']['name']}", body["metadata"]["name"]
    if owner_uid(body) is not None:
        return f"{child} of an earlier SFTJob still exists. If it is not being deleted, delete it."
    if body["kind"] == "PersistentVolumeClaim":
        return (
            f"{child} exists and does not belong to this SFTJob (storage.retain keeps the claim of a deleted SFTJob). "
            f"Delete it, or create a new SFTJob with storage.existingClaim: {name}"
        )
    return f"{child} exists and belongs to another owner. Delete it, or create the SFTJob under another name."
