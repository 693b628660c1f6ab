"""Small parts: Pods as the API server has them, durations, patches, curves, reports that cannot be stored."""

import itertools
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftjob_contract.codec import encode, from_json
from sftjob_contract.names import Stage
from sftjob_contract.reports.outcome import Output
from sftjob_contract.reports.progress import Checkpoint, HistoryPoint, Progress
from sftjob_contract.reports.stats import STATS_VERSION, PreparedStats
from sftjob_contract.run.config import DataFormat
from sftjob_operator.api import HistoryPointStatus, SFTJobStatus
from sftjob_operator.effects.merge_patch import merge_patch
from sftjob_operator.reconcile import PodPhase, belongs_to, owner_uid, pod_job, pod_view, usable_progress
from sftjob_operator.reconcile.messages.sentences import closed
from sftjob_operator.reconcile.observe.times import duration, parse_time, rfc3339
from sftjob_operator.reconcile.reports.status_parts import HISTORY_SHOWN, thinned, with_progress
from sftjob_operator.render import pod, volume_claim
from support.fakes.fake_cluster import (
    RENDER,
    START,
    an_outcome,
    ended,
    gated,
    merged,
    moment,
    running,
    unschedulable,
    waiting,
)
from support.fakes.progress import a_progress
from support.jobs.builders import UID, JobBuilder, a_job

PROGRESS = a_progress(10, tokens=5)
STATS = PreparedStats(
    version=STATS_VERSION,
    format=DataFormat.TEXT,
    rows=1,
    train_rows=1,
    evaluation_rows=0,
    truncated_rows=0,
    sequences=1,
    evaluation_sequences=0,
    tokens=1,
    trained_tokens=1,
    steps_per_epoch=1,
    max_steps=1,
    dataset_fingerprint="f00d",
)
CHECKPOINT = Checkpoint(step=10, path="checkpoints/checkpoint-10", bytes=1, time=moment(0))


def a_pod(status: dict, stage: Stage = Stage.TRAIN) -> dict:
    body = pod(a_job().build(), stage, 2, RENDER)
    return {**body, "metadata": {**body["metadata"], "uid": "u"}, "status": status}


def test_a_rendered_pod_is_recognized_by_job_owner_stage_and_attempt() -> None:
    body = a_pod({})
    view = pod_view(body)
    assert pod_job(body) == ("team", "demo")
    assert owner_uid(body) == UID
    assert (view.name, view.stage, view.attempt, view.phase) == ("demo-train-2", Stage.TRAIN, 2, PodPhase.PENDING)
    assert view.config_hash is not None


@pytest.mark.parametrize(
    "labels",
    [
        None,
        {},
        {"sftjob.dev/job": "demo"},
        {"sftjob.dev/job": "demo", "sftjob.dev/stage": "dance", "sftjob.dev/attempt": "1"},
        {"sftjob.dev/job": "demo", "sftjob.dev/stage": "train", "sftjob.dev/attempt": "one"},
        {"sftjob.dev/job": "demo", "sftjob.dev/stage": "train", "sftjob.dev/attempt": "1", "sftjob.dev/node-rank": "x"},
    ],
)
def test_a_pod_without_our_labels_is_a_stranger(labels: dict[str, str] | None) -> None:
    assert pod_job({"metadata": {"namespace": "team", "name": "x", "labels": labels}}) is None


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (running(3), {"phase": PodPhase.RUNNING, "started": moment(3), "image_id": "sha256:abc"}),
        (ended(137, seconds=9), {"phase": PodPhase.FAILED, "exit_code": 137, "finished": moment(9), "reason": "Error"}),
        (ended(0), {"phase": PodPhase.SUCCEEDED, "exit_code": 0, "live": False}),
        (ended(137, reason="OOMKilled"), {"reason": "OOMKilled"}),
        (waiting("ErrImagePull", "no such image"), {"reason": "ErrImagePull", "message": "no such image"}),
        (unschedulable("0/1 nodes"), {"unschedulable": "0/1 nodes", "live": True, "gated": False}),
        (gated(), {"gated": True, "unschedulable": None, "live": True}),
        ({"phase": "Failed", "reason": "Evicted", "message": "low"}, {"exit_code": None, "reason": "Evicted"}),
        ({"phase": "Martian"}, {"phase": PodPhase.PENDING}),
    ],
)
def test_what_matters_of_a_pods_status_is_read(status: int, expected: Any) -> None:
    view = pod_view(a_pod(status))
    assert {name: getattr(view, name) for name in expected} == expected


def test_the_rank_of_a_pod_and_its_coming_end_are_read() -> None:
    body = pod(a_job().resources(nodes=2).build(), Stage.TRAIN, 1, RENDER, rank=1)
    metadata = {**body["metadata"], "uid": "u", "deletionTimestamp": moment(0)}
    view = pod_view({**body, "metadata": metadata})
    assert (view.name, view.rank, view.deleting) == ("demo-train-1-1", 1, True)
    assert (pod_view(a_pod({})).rank, pod_view(a_pod({})).deleting) == (0, False)


@pytest.mark.parametrize(
    ("job", "uid", "ours"),
    [
        (a_job(), UID, True),
        (a_job(), "another", False),
        (a_job().storage(retain=True), UID, True),
        (a_job().storage(retain=True), "another", False),
    ],
)
def test_a_claim_tells_whose_it_is_even_if_it_is_to_outlive_its_job(job: JobBuilder, uid: str, ours: bool) -> None:
    claim = volume_claim(job.build())
    assert claim is not None
    assert belongs_to(claim, uid) is ours


def test_the_last_word_of_a_container_is_read() -> None:
    outcome = an_outcome(Stage.TRAIN, 65, reason="DataInvalid", message="no", progress=PROGRESS)
    assert pod_view(a_pod(ended(65, outcome))).outcome == outcome


@pytest.mark.parametrize(
    "text",
    [
        "Traceback (most recent call last)",
        "{}",
        json.dumps(encode(an_outcome(Stage.PREPARE, 65))),
        json.dumps(encode(an_outcome(Stage.TRAIN, 0))),
        json.dumps(encode(an_outcome(Stage.TRAIN, 65, progress=replace(PROGRESS, step=101)))),
        json.dumps({**encode(an_outcome(Stage.TRAIN, 65)), "progress": {**encode(PROGRESS), "loss": 10**400}}),
        json.dumps(encode(an_outcome(Stage.TRAIN, 65, prepared=replace(STATS, rows=-1)))),
        json.dumps(encode(an_outcome(Stage.TRAIN, 65, output=Output(path="x" * 2000, metrics={})))),
        json.dumps(encode(an_outcome(Stage.TRAIN, 65, output=Output(path="x", metrics={}, uploaded=("x" * 2000,))))),
    ],
    ids=[
        "a traceback",
        "empty",
        "another stage",
        "another exit code",
        "an impossible step",
        "an enormous number",
        "a negative count",
        "an endless path",
        "an endless URI",
    ],
)
def test_a_last_word_that_can_not_be_believed_is_no_word(text: str) -> None:
    status = ended(65)
    status["containerStatuses"][0]["state"]["terminated"]["message"] = text
    assert pod_view(a_pod(status)).outcome is None


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"step": -1}, "step must be greater than or equal to 0"),
        ({"step": 101}, "step must be at most maxSteps 100"),
        ({"tokens": 2**60}, "tokens must be less than or equal to 9007199254740992"),
        ({"eta_seconds": -5}, "etaSeconds"),
        ({"peak_memory_bytes": -1}, "peakMemoryBytes"),
        ({"checkpoints": (replace(CHECKPOINT, path="x" * 2000),)}, "at most 512 characters, not 2000"),
        ({"checkpoints": (replace(CHECKPOINT, time="yesterday"),)}, "time of checkpoints/checkpoint-10"),
        ({"checkpoints": (replace(CHECKPOINT, bytes=-1),)}, "bytes"),
        ({"unverified_checkpoints": (-1,)}, "unverifiedCheckpoints"),
        ({"history": (HistoryPoint(step=-3),)}, "history"),
    ],
)
def test_a_report_that_no_status_could_hold_is_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        usable_progress(replace(PROGRESS, **change))


numbers = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 100)


@given(
    loss=numbers,
    grad_norm=numbers,
    step=counts,
    checkpoints=st.lists(st.builds(lambda step: replace(CHECKPOINT, step=step), counts), max_size=200),
    history=st.lists(st.builds(HistoryPoint, step=counts, loss=numbers), max_size=100),
)
def test_every_report_that_is_accepted_fits_into_a_status(
    loss: float, grad_norm: float, step: int, checkpoints: list[Checkpoint], history: list[HistoryPoint]
) -> None:
    progress = replace(
        PROGRESS, loss=loss, grad_norm=grad_norm, step=step, checkpoints=tuple(checkpoints), history=tuple(history)
    )
    usable_progress(progress)
    status = with_progress(SFTJobStatus(), a_job().build(), progress, START)
    assert status.progress.step == step
    assert len(status.history) <= HISTORY_SHOWN


def points(*steps: int, evaluated: tuple[int, ...] = ()) -> tuple[HistoryPointStatus, ...]:
    return tuple(HistoryPointStatus(step=step, eval_loss=1.0 if step in evaluated else None) for step in steps)


def test_a_shortened_curve_adds_to_the_recorded_one() -> None:
    told = replace(PROGRESS, step=100, history=(HistoryPoint(step=4), HistoryPoint(step=100, eval_loss=0.5)))
    status = with_progress(SFTJobStatus(history=points(*range(0, 12, 2))), a_job().build(), told, None)
    assert [point.step for point in status.history] == [0, 2, 4, 6, 8, 10, 100]


def test_a_recorded_curve_that_is_full_makes_room_for_the_end() -> None:
    told = replace(PROGRESS, step=100, history=(HistoryPoint(step=100),))
    status = with_progress(SFTJobStatus(history=points(*range(HISTORY_SHOWN))), a_job().build(), told, None)
    assert len(status.history) == HISTORY_SHOWN
    assert (status.history[0].step, status.history[-1].step) == (0, 100)


@given(steps=st.integers(0, 60), evaluated=st.sets(st.integers(0, 59)))
def test_a_curve_is_thinned_evenly_and_keeps_both_ends_and_those_of_its_evaluations(
    steps: int, evaluated: set[int]
) -> None:
    curve = points(*range(steps), evaluated=tuple(evaluated))
    shown = thinned(curve)
    assert len(shown) == min(steps, HISTORY_SHOWN)
    assert list(shown) == [point for point in curve if point in shown]
    assert {*curve[:1], *curve[-1:]} <= set(shown)
    losses = [point for point in curve if point.eval_loss is not None]
    assert {*losses[:1], *losses[-1:]} <= set(shown)
    gaps = [after.step - before.step for before, after in itertools.pairwise(shown)]
    assert max(gaps, default=1) <= max(1, 3 * steps // HISTORY_SHOWN)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (45, "45s"), (60, "1m00s"), (192, "3m12s"), (7500, "2h05m"), (273600, "3d4h"), (-1, "0s")],
)
def test_durations_are_told_in_two_units(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_times_are_rfc3339_in_utc() -> None:
    assert rfc3339(parse_time("2026-03-01T13:00:00.5+01:00")) == "2026-03-01T12:00:00Z"
    with pytest.raises(ValueError, match="not a time with an offset"):
        parse_time("2026-03-01T13:00:00")


def test_equal_statuses_need_no_patch() -> None:
    assert merge_patch({"a": {"b": [1]}}, {"a": {"b": [1]}}) == {}


json_values = st.recursive(
    st.integers() | st.text(max_size=3) | st.booleans(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=3), children, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(max_size=3), json_values, max_size=4)


@given(old=objects, new=objects)
def test_a_merge_patch_turns_the_old_into_the_new(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert merged(old, merge_patch(old, new)) == new


def test_the_contract_reader_and_the_status_agree_on_unknown_keys() -> None:
    text = json.dumps({**encode(PROGRESS), "fromTheFuture": 1})
    assert from_json(Progress, text, ignore_unknown=True) == PROGRESS


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("a.jsonl:2: save the file as UTF-8", "a.jsonl:2: save the file as UTF-8."),
        ("Signal 9 ended it.", "Signal 9 ended it."),
        (None, "no message."),
    ],
)
def test_a_message_is_closed_before_another_sentence_follows(said: str | None, sentence: str) -> None:
    assert closed(said) == sentence
