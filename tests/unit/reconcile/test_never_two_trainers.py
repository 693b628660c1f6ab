"""Whatever happens to Pods, watches, status writes and the operator, some things never happen."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sftjob_contract.names import LABEL_ATTEMPT, LABEL_NODE_RANK, LABEL_STAGE, Stage
from sftjob_contract.reports.outcome import Outcome
from sftjob_operator.api import SFTJobStatus, parse_job, to_dict
from sftjob_operator.effects.merge_patch import merge_patch
from sftjob_operator.reconcile import (
    Action,
    Create,
    Decision,
    Delete,
    Observed,
    PodPhase,
    PodView,
    Publish,
    Report,
    decide,
)
from sftjob_operator.reconcile.attempts.ledger import failures
from support.checks.status_rules import illegal_transitions
from support.fakes.decisions import STATS
from support.fakes.fake_cluster import SETTINGS, START, an_outcome, merged, moment
from support.fakes.progress import a_progress
from support.jobs.builders import UID, a_job

EXIT_CODES = (0, 1, 65, 66, 70, 75, 76, 77, 137, 143)


class OneJob(RuleBasedStateMachine):
    """A job, the Pods that its decisions created, and everything that can go wrong around them."""

    @initialize(
        retries=st.integers(0, 3),
        backoff=st.sampled_from([0, 1, 10]),
        deadline=st.sampled_from([None, None, 600]),
        nodes=st.sampled_from([1, 1, 3]),
        begun=st.sampled_from(["nothing", "preparing", "training"]),
        publishes=st.sampled_from(["no", "a stage", "an earlier trainer"]),
    )
    def start(self, retries: int, backoff: int, deadline: int | None, nodes: int, begun: str, publishes: str) -> None:
        self.publishes = publishes == "a stage"
        job = a_job() if publishes == "no" else a_job().lora().output(mergeAdapter=True)
        job = job.failure_policy(max_retries=retries, backoff_seconds=backoff).resources(nodes=nodes)
        self.job = job.set("deadlineSeconds", deadline)
        self.deadline = deadline
        self.retries = retries
        self.status: dict = {}
        self.pods: dict[str, PodView] = {}
        self.seconds = 0.0
        self.report: Report | None = None
        self.highest: dict[str, int] = {}
        self.final: dict | None = None
        self.ever_created: set[str] = set()
        self.trained_well = self.published_well = False
        if begun != "nothing":  # begin in the middle, so that each stage is looked at as often
            self.reconcile()
            self.end_pod("demo-prepare-1", 0)
            self.reconcile()
        if begun == "training":
            for name in [name for name in self.pods if "-train-" in name]:
                self.end_pod(name, 0)
            self.reconcile()

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    @property
    def may_run(self) -> bool:
        overdue = self.deadline is not None and self.seconds >= self.deadline
        return not overdue and not self.job.spec.get("suspend", False)

    def decide(self) -> Decision:
        job = parse_job({**self.job.body(), "status": self.status})
        return decide(Observed(job=job, pods=tuple(self.pods.values()), report=self.report), SETTINGS, self.now())

    @rule(actions_done=st.integers(0, 4), status_is_written=st.booleans())
    def reconcile_and_crash(self, actions_done: int, status_is_written: bool) -> None:
        decision = self.decide()
        for action in decision.actions[:actions_done]:
            self.carry_out(action)
        if status_is_written and actions_done >= len(decision.actions):
            self.status = to_dict(decision.status)

    @rule()
    def reconcile(self) -> None:
        self.reconcile_and_crash(actions_done=99, status_is_written=True)

    def carry_out(self, action: Action) -> None:
        if isinstance(action, Delete):
            pod = self.pods[action.name]
            assert pod.uid == action.uid
            if pod.phase == PodPhase.PENDING:
                del self.pods[action.name]
            else:
                self.pods[action.name] = replace(pod, deleting=True)
            return
        if isinstance(action, Publish):
            assert any("-train-" in name for name in self.ever_created)
            return
        assert self.may_run
        body = action.body
        if body["kind"] != "Pod":
            return
        name, labels = body["metadata"]["name"], body["metadata"]["labels"]
        assert name not in self.pods, f"{name} exists already"
        if Stage(labels[LABEL_STAGE]) is Stage.PUBLISH:
            assert self.publishes
            assert self.trained_well
        self.ever_created.add(name)
        self.pods[name] = PodView(
            name=name,
            uid=name,
            owner_uid=UID,
            stage=Stage(labels[LABEL_STAGE]),
            attempt=int(labels[LABEL_ATTEMPT]),
            rank=int(labels.get(LABEL_NODE_RANK, "0")),
            phase=PodPhase.PENDING,
        )

    @rule()
    def its_user_suspends_or_resumes(self) -> None:
        self.job = self.job.set("suspend", not self.job.spec.get("suspend", False))

    @precondition(lambda self: any(pod.live for pod in self.pods.values()))
    @rule(data=st.data(), to=st.sampled_from([PodPhase.RUNNING, PodPhase.UNKNOWN, *EXIT_CODES]))
    def pod_moves(self, data: Any, to: Any) -> None:
        pod = data.draw(st.sampled_from([pod for pod in self.pods.values() if pod.live]))
        if isinstance(to, PodPhase):
            self.pods[pod.name] = replace(pod, phase=to, started=moment(self.seconds))
        else:
            self.end_pod(pod.name, to)

    def end_pod(self, name: str, exit_code: int) -> None:
        phase = PodPhase.SUCCEEDED if exit_code == 0 else PodPhase.FAILED
        outcome = self.last_word(self.pods[name].stage) if exit_code == 0 else None
        ended = replace(
            self.pods[name], phase=phase, exit_code=exit_code, finished=moment(self.seconds), outcome=outcome
        )
        self.pods[name] = ended
        self.trained_well |= ended.stage is Stage.TRAIN and exit_code == 0
        self.published_well |= ended.stage is Stage.PUBLISH and exit_code == 0

    def last_word(self, stage: Stage) -> Outcome:
        """What a container says that ended well."""
        if stage is Stage.PREPARE:
            return an_outcome(stage, prepared=replace(STATS, publish_stage=self.publishes or None))
        return an_outcome(stage, unpublished=True if stage is Stage.TRAIN and self.publishes else None)

    @precondition(lambda self: self.pods)
    @rule(data=st.data())
    def pod_vanishes(self, data: Any) -> None:
        del self.pods[data.draw(st.sampled_from(sorted(self.pods)))]

    @rule(step=st.integers(0, 100), attempt=st.integers(1, 4))
    def trainer_reports(self, step: int, attempt: int) -> None:
        progress = a_progress(step, attempt, self.seconds)
        self.report = Report(progress=progress, received=self.now())

    @rule()
    def operator_restarts(self) -> None:
        self.report = None

    @rule(seconds=st.sampled_from([1, 10, 700]))
    def time_passes(self, seconds: int) -> None:
        self.seconds += seconds

    @invariant()
    def at_most_one_attempt_trains(self) -> None:
        assert len({pod.attempt for pod in self.pods.values() if pod.is_training}) <= 1

    @invariant()
    def attempt_numbers_only_grow(self) -> None:
        for attempt in self.status.get("attempts", ()):
            stage = attempt["stage"]
            self.highest[stage] = max(self.highest.get(stage, 0), attempt["number"])
        for stage, highest in self.highest.items():
            recorded = [a["number"] for a in self.status["attempts"] if a["stage"] == stage]
            assert max(recorded) == highest
            assert recorded == sorted(set(recorded))

    @invariant()
    def the_end_is_the_end(self) -> None:
        if self.status.get("phase") in ("Succeeded", "Failed"):
            self.final = self.final or self.status
            assert self.status == self.final
            assert self.decide().actions == ()
            assert all(pod.deleting for pod in self.pods.values() if pod.live)

    @invariant()
    def nothing_trains_before_it_is_prepared(self) -> None:
        if any("-train-" in name for name in self.ever_created):
            assert any("-prepare-" in name for name in self.ever_created)

    @invariant()
    def nothing_is_published_beside_a_trainer(self) -> None:
        """A claim may be one node's at a time, and a trainer may write what is being read."""
        live = [pod.stage for pod in self.pods.values() if pod.live and not pod.deleting]
        assert Stage.PUBLISH not in live or live.count(Stage.PUBLISH) == 1
        assert not {Stage.PUBLISH, Stage.TRAIN} <= set(live)

    @invariant()
    def what_is_to_be_published_has_been_when_the_job_succeeds(self) -> None:
        if self.status.get("phase") == "Succeeded":
            assert self.published_well == self.publishes

    @invariant()
    def the_retry_budget_holds(self) -> None:
        attempts = SFTJobStatus.model_validate(self.status).attempts
        assert all(failures(attempts, stage) <= self.retries + 1 for stage in Stage)

    @invariant()
    def no_action_contradicts_another(self) -> None:
        actions = self.decide().actions
        created = [(a.body["kind"], a.body["metadata"]["name"]) for a in actions if isinstance(a, Create)]
        deleted = [(a.kind, a.name) for a in actions if isinstance(a, Delete)]
        assert len({*created, *deleted}) == len(created) + len(deleted)
        pods = [action.body for action in actions if isinstance(action, Create) and action.body["kind"] == "Pod"]
        assert len({pod["metadata"]["labels"][LABEL_ATTEMPT] for pod in pods}) <= 1

    @invariant()
    def phases_follow_each_other_as_they_may(self) -> None:
        assert illegal_transitions([self.status.get("phase"), to_dict(self.decide().status).get("phase")]) == []

    @invariant()
    def deciding_twice_says_the_same(self) -> None:
        decision = self.decide()
        written = to_dict(decision.status)
        patch = merge_patch(self.status, written)
        assert merged(self.status, patch) == written
        if not decision.actions:
            self.status, before = written, self.status
            assert merge_patch(written, to_dict(self.decide().status)) == {}
            self.status = before


OneJob.TestCase.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
TestOneJob = pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")(OneJob.TestCase)
