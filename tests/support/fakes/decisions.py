"""What is observed of a job named demo, what is decided about it, and how a test reads that."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sftjob_contract.names import Stage
from sftjob_contract.reports.stats import STATS_VERSION, PreparedStats
from sftjob_operator.reconcile import (
    Action,
    Create,
    Decision,
    Observed,
    PodPhase,
    PodView,
    Publish,
    Report,
    Settings,
    decide,
)
from support.fakes.fake_cluster import SETTINGS, START, an_outcome, moment
from support.fakes.progress import a_progress
from support.jobs.builders import UID, JobBuilder, a_job

STATS = PreparedStats(
    version=STATS_VERSION,
    format="text",
    rows=1900,
    train_rows=1805,
    evaluation_rows=95,
    truncated_rows=0,
    sequences=340,
    evaluation_sequences=18,
    tokens=120_000,
    trained_tokens=90_000,
    steps_per_epoch=32,
    max_steps=96,
    dataset_fingerprint="f00d",
    model_revision="abc123",
)


def a_pod(stage: Stage, phase: PodPhase = PodPhase.RUNNING, attempt: int = 1, **parts: Any) -> PodView:
    """A Pod of the job. One of several that train together has a `rank`, which its name ends with."""
    name = "-".join(["demo", stage, str(attempt), *([str(parts["rank"])] if "rank" in parts else [])])
    return PodView(name=name, uid=f"uid-{name}", owner_uid=UID, stage=stage, attempt=attempt, phase=phase, **parts)


def an_ended_pod(stage: Stage, exit_code: int | None, attempt: int = 1, seconds: float = 0, **parts: Any) -> PodView:
    """One whose container ended with `exit_code`, so long after the start."""
    phase = PodPhase.SUCCEEDED if exit_code == 0 else PodPhase.FAILED
    return a_pod(stage, phase, attempt, exit_code=exit_code, finished=moment(seconds), **parts)


PREPARED = an_ended_pod(Stage.PREPARE, 0, outcome=an_outcome(Stage.PREPARE, prepared=STATS))
"""The Prepare Pod when it is done."""


def a_report(step: int, attempt: int = 1, seconds: float = 0, **parts: Any) -> Report:
    """What a trainer tells, as it arrived."""
    told = a_progress(step, attempt, seconds, **{"max_steps": STATS.max_steps, **parts})
    return Report(progress=told, received=START + timedelta(seconds=seconds))


def decided(
    *pods: PodView, job: JobBuilder | None = None, seconds: float = 0, settings: Settings = SETTINGS, **observed: Any
) -> Decision:
    """The decision about a job that has these Pods, so long after the start."""
    seen = Observed(
        job=(job or a_job()).build(), pods=pods, **{"published_ca": settings.render.progress_ca, **observed}
    )
    return decide(seen, settings, START + timedelta(seconds=seconds))


def acts(decision: Decision) -> list[str]:
    """`create KIND/NAME` and `delete KIND/NAME`, in order."""
    return [_act(action) for action in decision.actions]


def created(decision: Decision) -> Sequence[str]:
    """`KIND/NAME` of every child that is to be created; nothing is to be deleted."""
    done = acts(decision)
    assert all(act.startswith("create ") for act in done), done
    return [act.removeprefix("create ") for act in done]


def condition(decision: Decision, type_: str) -> tuple[str, str, str]:
    """Status, reason and message of a condition."""
    (found,) = [each for each in decision.status.conditions if each.type == type_]
    return str(found.status), found.reason, found.message


def said(decision: Decision, type_: str) -> tuple[str, str]:
    """Status and reason of a condition."""
    return condition(decision, type_)[:2]


def message(decision: Decision, type_: str) -> str:
    """The message of a condition."""
    return condition(decision, type_)[2]


def _act(action: Action) -> str:
    if isinstance(action, Create):
        return f"create {action.body['kind']}/{action.body['metadata']['name']}"
    if isinstance(action, Publish):
        return f"publish ConfigMap/{action.name}"
    return f"delete {action.kind}/{action.name}"
