"""What comes from a Pod is brought into the form of a status or refused: no decision ever fails because of it."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sftjob_contract.codec import ContractError, from_untrusted_json
from sftjob_contract.names import LABEL_ATTEMPT, TERMINATION_MESSAGE_LIMIT_BYTES, Stage
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.model_shape import LinearShape, ModelShape, UnfrozenShape
from sftjob_contract.reports.outcome import Output
from sftjob_contract.reports.progress import (
    PROGRESS_VERSION,
    Activity,
    Checkpoint,
    HistoryPoint,
    Progress,
    SkippedCheckpoint,
)
from sftjob_contract.secrets import HIDDEN
from sftjob_contract.times import parse_time, rfc3339
from sftjob_operator.api import to_dict
from sftjob_operator.reconcile import Observed, PodPhase, Report, decide, pod_job, pod_view, usable_progress
from sftjob_operator.reconcile.reports.limits import usable_outcome
from sftjob_operator.render import pod
from support.checks.stored_status import refusals
from support.fakes.decisions import PREPARED, a_pod, an_ended_pod
from support.fakes.fake_cluster import RENDER, SETTINGS, START, an_outcome, ended, running
from support.fakes.progress import a_progress
from support.jobs.builders import a_job
from support.jobs.model_shapes import LLAMA_8B, QWEN_05B, stats_with

LIMITED = a_job().resources(gpus=1, gpuMemory="24Gi")


def mostly(good: st.SearchStrategy[Any], bad: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Good values, and a bad one now and then, so that a message of many fields is accepted about as often as not."""
    return st.integers(0, 60).flatmap(lambda n: bad if n == 1 else good)


odd_moments = st.sampled_from([
    "2026-03-01 12:00:00+00:00",
    "2026-03-01T12:00:00.123456789+05:30",
    "2016-12-31T23:59:60Z",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
    "1970-01-01T00:00:00+14:00",
    "2026-03-01T12:00:00",
    "20260301T120000Z",
    "2026-W09-7T12:00:00Z",
    "2026-03-01T24:00:00Z",
    "\u0662026-03-01T12:00:00Z",
    "2026-03-01T12:00:00Z" + "0" * 70,
    "2026-03-01T12:00:00." + "1" * 70 + "Z",
])  # fmt: skip
moments = mostly(st.just("2026-03-01 12:00:00+00:00"), odd_moments)
counts = mostly(st.integers(0, 99) | st.sampled_from([2**31, 2**53]), st.sampled_from([2**53 + 1, -1, 10**40]))
large = mostly(st.sampled_from([100, 2**53]), st.just(2**53 + 1))
measures = st.none() | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(max_size=12) | st.sampled_from(["x" * 3000, "\ud800", "\x00\x1b[31m", f"hf_{'a' * 40}", "../up", ""])
paths = mostly(
    st.sampled_from(["checkpoints/checkpoint-7", "output/model", "x" * 512]),
    st.sampled_from(["x" * 513, "../up", "a\nb", "\ud800", ""]),
)
seconds = mostly(st.none() | st.floats(0, 1e9), st.sampled_from([-1.0, 1e300]))
progresses = st.builds(
    Progress,
    version=st.just(PROGRESS_VERSION),
    attempt=st.just(1),
    activity=st.sampled_from(Activity),
    time=moments,
    step=counts,
    max_steps=large,
    resumed_from_step=st.none() | counts,
    tokens=st.none() | counts,
    epoch=measures,
    loss=measures,
    tokens_per_second=measures,
    eta_seconds=st.none() | counts,
    mfu=measures,
    loaded_bytes=st.none() | counts,
    weights_bytes=st.none() | counts,
    loading_seconds=seconds,
    step_seconds=seconds,
    longest_save_seconds=seconds,
    peak_memory_bytes=st.none() | counts,
    best_step=st.none() | counts,
    checkpoints=st.lists(
        st.builds(Checkpoint, step=counts, path=paths, bytes=counts, time=moments, eval_loss=measures), max_size=3
    ).map(tuple),
    unverified_checkpoints=st.lists(counts, max_size=3).map(tuple),
    skipped_checkpoints=st.lists(st.builds(SkippedCheckpoint, path=texts, why=texts), max_size=40).map(tuple),
    history=st.lists(st.builds(HistoryPoint, step=counts, loss=measures), max_size=60).map(tuple),
)
UNFROZEN = (UnfrozenShape(rows=896, columns=4864, count=2), UnfrozenShape(rows=1792, columns=1, count=1))
sizes = st.sampled_from([-1, 0, 1, 1000, 10**9, 10**12, 10**15, 10**300])
shapes = st.builds(
    ModelShape,
    parameters=sizes,
    bias_parameters=sizes,
    weight_bytes=sizes,
    hidden_size=sizes,
    intermediate_size=sizes,
    layers=sizes,
    attention_heads=sizes,
    key_value_heads=sizes,
    head_size=sizes,
    vocabulary_size=sizes,
    tied_embeddings=st.booleans(),
    linear_layers=st.lists(
        st.builds(LinearShape, name=texts, in_features=sizes, out_features=sizes, count=sizes), max_size=2
    ).map(tuple),
    unfrozen=st.none()
    | st.lists(st.builds(UnfrozenShape, rows=sizes, columns=sizes, count=sizes), max_size=9).map(tuple),
    new_token_matrices=sizes,
)
good_shapes = st.builds(
    lambda **parts: replace(QWEN_05B, **parts),
    parameters=st.integers(0, 10**15),
    hidden_size=st.integers(1, 10**9),
    layers=st.integers(1, 10**9),
    vocabulary_size=st.integers(1, 10**9),
)
stats = st.builds(
    lambda **parts: replace(stats_with(QWEN_05B), **parts),
    rows=counts,
    train_rows=counts,
    tokens=counts,
    max_steps=counts,
    steps_per_epoch=counts,
    dataset_fingerprint=texts,
    model_revision=st.none() | texts,
    model_shape=mostly(st.none() | good_shapes, shapes),
)
outputs = st.builds(
    Output,
    path=paths,
    metrics=st.dictionaries(texts, measures.filter(lambda value: value is not None), max_size=40),
    uploaded=st.lists(paths, max_size=3).map(tuple),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(told=progresses)
def test_every_report_that_is_accepted_makes_a_status_that_the_server_stores(told: Progress) -> None:
    try:
        progress = usable_progress(told)
    except ValueError:
        return
    report = Report(progress=progress, received=START)
    seen = Observed(job=a_job().build(), pods=(PREPARED, a_pod(Stage.TRAIN)), report=report)
    assert refusals(to_dict(decide(seen, SETTINGS, START).status)) == []


@pytest.mark.parametrize(
    "shape", [QWEN_05B, LLAMA_8B, replace(QWEN_05B, unfrozen=UNFROZEN), replace(LLAMA_8B, new_token_matrices=2)]
)
def test_what_prepare_counts_is_accepted_and_becomes_the_plan(shape: ModelShape) -> None:
    outcome = an_outcome(Stage.PREPARE, 0, prepared=replace(stats_with(QWEN_05B), model_shape=shape))
    pod = an_ended_pod(Stage.PREPARE, 0, outcome=usable_outcome(outcome))
    plan = decide(Observed(job=LIMITED.build(), pods=(pod,)), SETTINGS, START).status.plan
    assert plan is not None
    assert plan.parameters == shape.parameters
    assert plan.memory is not None


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    progress=st.none() | progresses,
    prepared=st.none() | stats,
    output=st.none() | outputs,
    libraries=st.none() | st.dictionaries(texts, texts, max_size=40),
    message=st.none() | texts,
    stage=st.sampled_from(Stage),
)
def test_so_does_every_termination_message(stage: Stage, **parts: Any) -> None:
    try:
        outcome = usable_outcome(an_outcome(stage, 0, **parts))
    except ValueError:
        return
    pods = (an_ended_pod(stage, 0, outcome=outcome),)
    seen = Observed(job=LIMITED.build(), pods=pods if stage == Stage.PREPARE else (PREPARED, *pods))
    assert refusals(to_dict(decide(seen, SETTINGS, START).status)) == []


@pytest.mark.parametrize(
    ("told", "stored"),
    [
        ("2026-03-01 12:00:00+00:00", "2026-03-01T12:00:00Z"),
        ("2026-03-01T12:00:00.123456789+05:30", "2026-03-01T06:30:00Z"),
        ("2016-12-31t23:59:60z", "2016-12-31T23:59:59Z"),
        ("0001-01-01T00:00:00+14:00", None),
        ("9999-12-31T23:59:59-14:00", None),
        ("2026-03-01T12:00:00", None),
        ("2026-03-01T12:00:00Z" + " " * 70, None),
        ("20260301T120000Z", None),
    ],
)
def test_a_time_is_stored_in_utc_or_refused(told: str, stored: str | None) -> None:
    checkpoint = Checkpoint(step=1, path="checkpoints/checkpoint-1", bytes=1, time=told)
    progress = a_progress(1, checkpoints=(checkpoint,))
    if stored is None:
        with pytest.raises(ValueError, match="time of checkpoints/checkpoint-1: "):
            usable_progress(progress)
    else:
        assert usable_progress(progress).checkpoints[0].time == stored == rfc3339(parse_time(told))


def test_texts_and_lists_are_cut_to_what_a_status_shows() -> None:
    skipped = tuple(SkippedCheckpoint(path=f"p{i}", why=f"hf_{'a' * 40} " + "x" * 60_000) for i in range(400))
    usable = usable_progress(a_progress(1, skipped_checkpoints=skipped, history=(HistoryPoint(step=1),) * 500))
    assert len(usable.history) == 48
    assert len(usable.skipped_checkpoints) == 16
    assert usable.skipped_checkpoints[0].why == f" {HIDDEN} ..."


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("[" * 60_000, "not valid JSON"),
        ('{"step": ' + "1" * 5000 + "}", "a number has 5,000 digits, more than 512"),
        ('{"version": 1, "history": ' + json.dumps([{"step": 1}] * 2000) + "}", "missing|at most 512 entries"),
        ('{"loss": ' + "9" * 400 + ".0}", "missing|finite"),
        ('{"version": {"a": ' + '{"b": ' * 800 + "1" + "}" * 802, "version must be of type int"),
        (json.dumps({"version": "1" * 60_000}), "version must be of type int, not '1{56,}"),
        (b"\xff" * 10, "not valid JSON"),
        (" " * 70_000, "longer than 65536"),
    ],
)
def test_a_message_is_refused_before_more_than_its_bounds_is_read(body: str | bytes, complaint: str) -> None:
    with pytest.raises(ContractError, match=complaint) as caught:
        from_untrusted_json(Progress, body, longest=65536)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("digits", ["9" * 10, "9" * 100_000, "\u0663", "-1", ""])
def test_a_pod_whose_attempt_is_no_number_of_ours_is_nobodys(digits: str) -> None:
    body = pod(a_job().build(), Stage.TRAIN, 1, RENDER)
    labels = {**body["metadata"]["labels"], LABEL_ATTEMPT: digits}
    assert pod_job({**body, "metadata": {**body["metadata"], "labels": labels}}) is None


@pytest.mark.parametrize("time", ["yesterday", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59Z"])
def test_a_time_of_a_pod_that_cannot_be_is_not_known(time: str) -> None:
    body = pod(a_job().build(), Stage.TRAIN, 1, RENDER)
    status = json.loads(json.dumps(running()).replace("2026-03-01T12:00:00Z", time))
    view = pod_view({**body, "metadata": {**body["metadata"], "uid": "u"}, "status": status})
    assert (view.phase, view.started) == (PodPhase.RUNNING, None)


def test_a_termination_message_longer_than_the_kubelets_is_not_read() -> None:
    outcome = an_outcome(Stage.TRAIN, 65, reason=Reason.DATA_INVALID, message="m" * TERMINATION_MESSAGE_LIMIT_BYTES)
    body = pod(a_job().build(), Stage.TRAIN, 1, RENDER)
    view = pod_view({**body, "metadata": {**body["metadata"], "uid": "u"}, "status": ended(65, outcome)})
    assert view.outcome is None
