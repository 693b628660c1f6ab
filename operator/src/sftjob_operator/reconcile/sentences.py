"""Sentences that people read through kubectl describe: what happened, where to look, what to change."""

from typing import Final

from sftjob_contract.stats import PreparedStats
from sftjob_operator.api import AttemptStatus, PlanStatus, SFTJob
from sftjob_operator.reconcile.observed import PodPhase, PodView
from sftjob_operator.reconcile.situation import Situation
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
        return f"No node has room for Pod {pod.name}: {pod.unschedulable}"
    if pod.reason and pod.reason not in _STARTING:
        return f"Pod {pod.name} waits with {pod.reason}: {pod.message or 'no message given'}"
    return f"Pod {pod.name} was created; its container has not started."


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


def plan_of(stats: PreparedStats) -> PlanStatus:
    """The part of the statistics that a status keeps."""
    return PlanStatus(
        steps=stats.max_steps,
        steps_per_epoch=stats.steps_per_epoch,
        rows=stats.rows,
        train_rows=stats.train_rows,
        evaluation_rows=stats.evaluation_rows,
        sequences=stats.sequences,
        tokens=stats.tokens,
        trained_tokens=stats.trained_tokens,
    )


def _counts(rows: int, held_out: int, tokens: int, steps: int) -> str:
    return (
        f"{rows:,} rows are prepared, {held_out:,} of them held out for evaluation: {tokens:,} tokens, {steps:,} steps."
    )
