"""Sentences that people read through kubectl describe: what happened, where to look, what to change."""

from collections.abc import Iterable
from typing import Final

from sftjob_contract.names import Stage
from sftjob_contract.stats import PreparedStats
from sftjob_operator.api import AttemptStatus, SFTJob
from sftjob_operator.reconcile.observed import PodPhase, PodView
from sftjob_operator.reconcile.situation import Situation
from sftjob_operator.reconcile.training import with_training
from sftjob_operator.render import volume_uri

_STARTING: Final = frozenset({"ContainerCreating", "PodInitializing"})
"""Waiting reasons of every healthy start, not worth a status write."""


def log_hint(job: SFTJob, pod: str) -> str:
    """How to see what a Pod wrote."""
    return f"Log: kubectl logs -n {job.metadata.namespace} {pod}"


def closed(sentence: str | None) -> str:
    """A message as a sentence that another may follow."""
    text = (sentence or "no message").rstrip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


def pod_waits(pod: PodView) -> str:
    """Why a Pod has not started."""
    if pod.unschedulable:
        return f"No node takes Pod {pod.name}: {pod.unschedulable}"
    if pod.reason and pod.reason not in _STARTING:
        return f"Pod {pod.name} waits with {pod.reason}: {pod.message or 'no message given'}"
    return f"Pod {pod.name} was created; its container has not started."


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
    status = with_training(at)
    if status.progress is None:
        return "No step of training has been reported."
    step = f"Training stands at step {status.progress.step:,} of {status.progress.max_steps:,}"
    if status.latest_checkpoint is None:
        return f"{step}; there is no checkpoint yet."
    return f"{step}; the newest checkpoint is {status.latest_checkpoint}."


def pod_runs(at: Situation, pod: PodView) -> str:
    """Where a stage runs, and what it began with."""
    if pod.phase == PodPhase.UNKNOWN:
        return f"Node {pod.node} of Pod {pod.name} does not answer; a new attempt starts once the Pod is gone."
    attempt = next((a for a in at.attempts if (a.stage, a.number) == (pod.stage, pod.attempt)), None)
    notes = [f"It resumed from step {attempt.from_step}."] if attempt is not None and attempt.from_step else []
    notes += [closed(attempt.message)] if attempt is not None and attempt.message else []
    return " ".join([f"Attempt {pod.attempt} runs in Pod {pod.name}.", *notes, log_hint(at.job, pod.name)])


def prepared_sentence(at: Situation) -> str:
    """What Prepare made of the data."""
    stats = prepared_stats(at)
    plan = at.job.status.plan
    if stats is not None:
        return _counts(stats.rows, stats.evaluation_rows, stats.tokens, stats.max_steps)
    if plan is not None:
        return _counts(plan.rows, plan.evaluation_rows, plan.tokens, plan.steps)
    return "Model and data are prepared."


def completed(at: Situation, last: AttemptStatus) -> str:
    """What a finished run left behind."""
    pod = at.pod_of(last)
    outcome = pod.outcome if pod is not None else None
    if outcome is None or outcome.output is None:
        uri = volume_uri(at.job, "output")
        return f"Training is complete; the output lies below {uri}. The Pod left no final metrics."
    metrics = outcome.output.metrics
    before, after = metrics.get("initialEvalLoss"), metrics.get("evalLoss")
    change = (
        f" Evaluation loss went from {before:.4g} to {after:.4g}." if before is not None and after is not None else ""
    )
    return f"Training is complete; the output lies at {volume_uri(at.job, outcome.output.path)}.{change}"


def prepared_stats(at: Situation) -> PreparedStats | None:
    """Statistics from the newest Pod that told some."""
    told = [pod.outcome.prepared for pod in at.pods if pod.outcome is not None and pod.outcome.prepared is not None]
    return told[-1] if told else None


def _counts(rows: int, held_out: int, tokens: int, steps: int) -> str:
    return (
        f"{rows:,} rows are prepared, {held_out:,} of them held out for evaluation: {tokens:,} tokens, {steps:,} steps."
    )
