"""Sentences that people read through kubectl describe: what happened, where to look, what to change."""

import re
from collections.abc import Iterable
from typing import Final

from sftjob_contract.names import Stage
from sftjob_contract.reasons import Reason
from sftjob_operator.api import AttemptStatus, PlanStatus, SFTJob, replace
from sftjob_operator.reconcile.observed import PodPhase, PodView, Trouble
from sftjob_operator.reconcile.policy import POLICIES
from sftjob_operator.reconcile.situation import Situation
from sftjob_operator.reconcile.starting import PULL_FAILURES, STARTING
from sftjob_operator.reconcile.training import stop_seconds, with_training
from sftjob_operator.reconcile.unschedulable import unschedulable_hint
from sftjob_operator.render import MOST_SAVING_SECONDS, grace_seconds, saves_on_termination, volume_uri

TRAINED: Final = "Training is complete; its output is to be published."
_WORD: Final = re.compile("[A-Z][A-Za-z]{2,63}")


def log_hint(job: SFTJob, pod: str) -> str:
    """How to see what a Pod wrote."""
    return f"Log: kubectl logs -n {job.metadata.namespace} {pod}"


def closed(sentence: str | None) -> str:
    """A message as a sentence that another may follow."""
    text = (sentence or "no message").rstrip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


def pod_waits(at: Situation, pod: PodView, otherwise: str) -> tuple[str, str]:
    """Why a Pod has not started: a reason, which is `otherwise` if nothing is wrong, and whole sentences."""
    found = at.obstacles.get(pod.uid)
    if pod.unschedulable and not at.settling_seconds(pod):
        return _unschedulable(at, pod, pod.unschedulable, found)
    if pod.reason and pod.reason not in STARTING:
        message = f"Pod {pod.name} waits with {pod.reason}: {pod.message or 'no message given'}"
        if pod.reason in PULL_FAILURES:
            return _with_hint(Reason.IMAGE_PULL_FAILED, message)
        return _word(pod.reason, otherwise), message
    if pod.trouble is not None:
        return _word(pod.trouble.reason, otherwise), f"Pod {pod.name} waits. {closed(pod.trouble.message)}"
    if found is not None:
        return _word(found.reason, otherwise), f"Pod {pod.name} waits: {closed(found.message)}"
    return otherwise, f"Pod {pod.name} was created; its container has not started."


def _unschedulable(at: Situation, pod: PodView, words: str, found: Trouble | None) -> tuple[str, str]:
    """The scheduler's words, what is known of the volume claim that it names, and what to change."""
    message = closed(f"No node takes Pod {pod.name}: {words}")
    about_claim = "" if found is None else f" {closed(found.message)}"
    return Reason.UNSCHEDULABLE, f"{message}{about_claim} {unschedulable_hint(at.job, f'{words} {about_claim}')}"


def _word(reason: str, otherwise: str) -> str:
    """A kubelet's word as the reason of a condition, if it is one."""
    return reason if _WORD.fullmatch(reason) else otherwise


def pod_is_gated(job: SFTJob, pod: PodView) -> str:
    """What a Pod waits for before it is scheduled at all."""
    queue = job.spec.scheduling.queue_name
    gate = f"queue {queue} admits it" if queue is not None else "its scheduling gates are taken away"
    return f"Pod {pod.name} waits until {gate}."


def pods_stop(pods: Iterable[PodView]) -> str:
    """Which Pods were asked to end."""
    first, *others = pods
    place = f" on node {first.node}" if first.node else ""
    more = f" and {len(others)} more" if others else ""
    return f"Pod {first.name}{place}{more} was asked to end, and has not yet."


def standing(at: Situation) -> str:
    """How far a job that does not run has come."""
    if at.last(Stage.TRAIN) is None:
        return prepared_sentence(at) if at.prepared else "Nothing has been prepared yet."
    if at.unpublished:
        return TRAINED
    status = with_training(at)
    if status.progress is None:
        return "No step of training has been reported."
    step = f"Training stands at step {status.progress.step:,} of {status.progress.max_steps:,}"
    if at.job.spec.command is not None:
        return f"{step}; what it saved is known to the command alone."
    if status.latest_checkpoint is None:
        return f"{step}; there is no checkpoint yet."
    return f"{step}; the newest checkpoint is {status.latest_checkpoint}."


def pod_runs(at: Situation, pod: PodView) -> str:
    """Where a stage runs, and what it began with."""
    if pod.phase == PodPhase.UNKNOWN:
        return f"{silent_node(pod)} A new attempt starts once the Pod is gone."
    attempt = next((a for a in at.attempts if (a.stage, a.number) == (pod.stage, pod.attempt)), None)
    notes = [f"It resumed from step {attempt.from_step}."] if attempt is not None and attempt.from_step else []
    notes += [closed(attempt.message)] if attempt is not None and attempt.message else []
    notes += [closed(pod.trouble.message)] if pod.trouble is not None else []
    notes += [node] if (node := silent_node(pod)) is not None else []
    notes += [short] if (short := grace_is_short(at, pod)) is not None else []
    return " ".join([f"Attempt {pod.attempt} runs in Pod {pod.name}.", *notes, log_hint(at.job, pod.name)])


def silent_node(pod: PodView) -> str | None:
    """That the node of a Pod does not answer, as far as the Pod's own status shows it; else None."""
    if pod.phase != PodPhase.UNKNOWN and not pod.node_silent:
        return None
    return f"Node {pod.node} of Pod {pod.name} does not answer (NotReady): kubectl describe node {pod.node}."


def grace_is_short(at: Situation, pod: PodView) -> str | None:
    """That a running Pod would be killed before it has saved, by how long saving was measured to take; else None."""
    takes, grace = stop_seconds(at), pod.grace_seconds
    if takes is None or grace is None or takes <= grace or not saves_on_termination(at.job, pod.stage):
        return None
    measured = replace(at.job.status, stop_seconds=takes)
    enough = grace_seconds(replace(at.job, status=measured), pod.stage)
    short = f"A stop takes about {takes:.0f} s with its checkpoint, and Pod {pod.name} has {grace} s for it"
    if enough < takes:
        return (
            f"{short}; no Pod gets more than {MOST_SAVING_SECONDS} s: in a new job, put the volume on faster storage, "
            "or lower checkpoints.everySteps."
        )
    return (
        f"{short}: a stop now loses the steps since the last checkpoint. The next Pod gets {enough} s; to have that "
        "now, set spec.suspend to true and back right after a checkpoint."
    )


def prepared_sentence(at: Situation) -> str:
    """What Prepare made of the data."""
    if at.job.spec.command is not None:
        return "Nothing is to be prepared: spec.command sees to model and data itself."
    said = _counts(at.plan) if at.plan is not None else "Model and data are prepared."
    return said if (moved := moved_aside(at)) is None else f"{said} {moved}"


def moved_aside(at: Situation) -> str | None:
    """What Prepare renamed on the volume; once its Pod is gone, what the status says of it."""
    told = [pod.outcome.moved_aside for pod in at.pods if pod.outcome is not None and pod.stage == Stage.PREPARE]
    known = next((sentence for sentence in reversed(told) if sentence is not None), at.job.status.moved_aside)
    return None if at.job.spec.recipe is None else known


def completed(at: Situation, last: AttemptStatus) -> str:
    """What a finished run left behind."""
    pod = at.pod_of(last)
    outcome = pod.outcome if pod is not None else None
    if at.job.spec.command is not None:
        volume = volume_uri(at.job, "").rstrip("/")
        return f"The command has ended with exit code 0; what it saved in the job's volume lies at {volume}."
    if outcome is None or outcome.output is None:
        uri = volume_uri(at.job, "output")
        return f"Training is complete; the output lies below {uri}. The Pod left no final metrics."
    metrics = outcome.output.metrics
    before, after = metrics.get("initialEvalLoss"), metrics.get("evalLoss")
    change = (
        f" Evaluation loss went from {before:.4g} to {after:.4g}." if before is not None and after is not None else ""
    )
    places = " and ".join((volume_uri(at.job, outcome.output.path), *outcome.output.uploaded))
    return f"Training is complete; the output lies at {places}.{change}"


def _with_hint(reason: Reason, message: str) -> tuple[str, str]:
    return reason, f"{closed(message)} {POLICIES[reason].hint}"


def _counts(plan: PlanStatus) -> str:
    """Rows to evaluate on may be held out, or come from a split or a source of their own."""
    evaluation = f" and {plan.evaluation_rows:,} rows to evaluate on" if plan.evaluation_rows else ""
    rows = f"{plan.train_rows:,} rows to train on{evaluation} are prepared"
    return f"{rows}: {plan.tokens:,} tokens to train on, {plan.steps:,} steps."
