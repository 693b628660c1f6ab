"""Kubeflow's trainer status becomes a report of ours: its steps are believed, its percentage and its ETA are not."""

import json
import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from sftjob_contract.reports.progress import HISTORY_POINTS, PROGRESS_VERSION, Activity, HistoryPoint, Progress
from sftjob_operator.progress.kubeflow import kubeflow_progress
from support.jobs.manifests import ROOT

HEARD = Progress(
    version=PROGRESS_VERSION,
    attempt=1,
    activity=Activity.TRAINING,
    time="2026-03-01T12:00:00+00:00",
    step=10,
    max_steps=100,
    resumed_from_step=None,
    tokens=None,
)


def body(second: float = 10, percent: int | None = 20, eta: int | None = 1, **metrics: Any) -> bytes:
    """What the callback of transformers sends `second` seconds after 12:00; every metric is text."""
    status = {
        "lastUpdatedTime": f"2026-03-01T12:{int(second) // 60:02}:{second % 60:09.6f}+00:00",
        "metrics": [{"name": name, "value": str(value)} for name, value in metrics.items()],
    }
    told = {"progressPercentage": percent, "estimatedRemainingSeconds": eta}
    given = {name: value for name, value in told.items() if value is not None}
    return json.dumps({"trainerStatus": {**status, **given}}).encode()


BEGIN = body(percent=0, eta=None, total_steps=100)
STEP = body(percent=20, eta=40, loss=2.5, current_step=20, total_steps=100, current_epoch=0.5)
END = body(percent=100, eta=0, loss=2.25, train_loss=3.5)


@pytest.mark.parametrize(
    ("heard", "heard_epoch", "epoch", "step"),
    [
        pytest.param(207, 1.03, 2.0, 400, id="a full run whose last reported step is seconds old"),
        pytest.param(399, 1.99, 2.0, 400, id="one step short of it"),
        pytest.param(200, 1.0, 1.5, 300, id="an early stop"),
        pytest.param(200, 1.0, None, 200, id="no epoch is known"),
        pytest.param(0, None, 2.0, 400, id="no step was reported in all the run"),
    ],
)
def test_the_last_post_tells_by_its_epoch_how_far_training_got(
    heard: int, heard_epoch: float | None, epoch: float | None, step: int
) -> None:
    known = replace(HEARD, step=heard, max_steps=400, epoch=heard_epoch, attempt=1)
    metrics = {} if epoch is None else {"epoch": epoch}
    told = kubeflow_progress(body(percent=100, eta=0, train_loss=3.5, **metrics), 1, known)
    assert (told.step, told.max_steps, told.activity) == (step, 400, Activity.FINISHED)


@pytest.mark.parametrize(
    ("sent", "known", "activity", "step", "max_steps", "loss"),
    [
        pytest.param(BEGIN, None, Activity.LOADING, 0, 100, None, id="the first POST tells no step"),
        pytest.param(BEGIN, HEARD, Activity.LOADING, 0, 100, None, id="a second training in one process begins anew"),
        pytest.param(STEP, None, Activity.TRAINING, 20, 100, 2.5, id="after a restart of the operator"),
        pytest.param(STEP, HEARD, Activity.TRAINING, 20, 100, 2.5, id="in the midst of training"),
        pytest.param(END, HEARD, Activity.FINISHED, 10, 100, 2.25, id="an early stop leaves the step where it was"),
        pytest.param(
            body(percent=99, current_step=100, total_steps=100),
            *(HEARD, Activity.TRAINING, 100, 100, None),
            id="the last step is not the end",
        ),
    ],
)
def test_what_a_post_tells(
    sent: bytes, known: Progress | None, activity: Activity, step: int, max_steps: int, loss: float | None
) -> None:
    told = kubeflow_progress(sent, 1, known)
    assert (told.activity, told.step, told.max_steps, told.loss) == (activity, step, max_steps, loss)
    assert (told.version, told.attempt, told.resumed_from_step) == (PROGRESS_VERSION, 1, None)


def test_the_example_of_the_documentation_is_taken() -> None:
    text = (ROOT / "docs" / "own-image.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```json\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    told = kubeflow_progress(example.encode(), 1, None)
    assert (told.step, told.max_steps, told.loss) == (20, 100, 2.5)


def test_every_metric_that_a_status_has_a_place_for_is_taken_over() -> None:
    metrics = {"loss": 2.5, "eval_loss": 2.75, "learning_rate": 2e-4, "grad_norm": 1.5, "num_tokens": 4096.0}
    steps = {"current_step": 20, "total_steps": 100, "current_epoch": 0.25, "epoch": 0.2}
    told = kubeflow_progress(body(**metrics, **steps), 1, None)
    assert (told.loss, told.eval_loss, told.learning_rate, told.grad_norm) == (2.5, 2.75, 2e-4, 1.5)
    assert (told.tokens, told.epoch) == (4096, 0.25)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "low", ""])
def test_a_metric_that_is_no_finite_number_is_left_out(value: str) -> None:
    told = kubeflow_progress(body(loss=value, grad_norm=1.5, current_step=20, total_steps=100), 1, None)
    assert (told.loss, told.grad_norm) == (None, 1.5)


@pytest.mark.parametrize(
    ("sent", "known", "step_seconds", "eta_seconds"),
    [
        pytest.param(STEP, HEARD, 1.0, 80, id="ten steps in ten seconds"),
        pytest.param(STEP, None, None, None, id="one report tells no speed"),
        pytest.param(BEGIN, HEARD, None, None, id="nor does the beginning"),
        pytest.param(STEP, replace(HEARD, step=0, activity=Activity.LOADING), None, None, id="nor the first after it"),
        pytest.param(STEP, replace(HEARD, attempt=2), None, None, id="nor a report of another attempt"),
        pytest.param(STEP, replace(HEARD, step_seconds=2.0), 1.7, 136, id="older times count, and count less and less"),
        pytest.param(STEP, replace(HEARD, step=30, step_seconds=2.0), 2.0, 160, id="steps that go back tell nothing"),
        pytest.param(
            STEP,
            *(replace(HEARD, time="2026-03-01T12:01:00+00:00", step_seconds=2.0), 2.0, 160),
            id="nor does a clock that goes back",
        ),
        pytest.param(END, replace(HEARD, step_seconds=2.0), 2.0, None, id="an early stop leaves nothing to wait for"),
    ],
)
def test_the_eta_follows_from_the_time_between_reports(
    sent: bytes, known: Progress | None, step_seconds: float | None, eta_seconds: int | None
) -> None:
    told = kubeflow_progress(sent, 1, known)
    assert (told.step_seconds, told.eta_seconds) == (pytest.approx(step_seconds), eta_seconds)


def test_after_a_resume_the_steps_of_the_process_before_do_not_shorten_the_eta() -> None:
    """A run of 1000 steps resumes at 900 and takes 2 s for each; the callback would promise the rest in no time."""
    told = None
    for second, step in ((0.0, None), (5.0, 902), (10.0, 905), (15.0, 907)):
        steps = {} if step is None else {"current_step": step}
        sent = body(second, 90, round(second / (step or 1) * (1000 - (step or 0))), total_steps=1000, **steps)
        told = kubeflow_progress(sent, 2, told)
    assert told is not None
    assert told.step_seconds == pytest.approx(2, rel=0.2)
    assert told.eta_seconds == pytest.approx(93 * 2, rel=0.2)


def test_the_curve_has_a_point_for_each_new_loss() -> None:
    told = None
    for second, step, metrics in (
        (0, 5, {"loss": 3.0}),
        (5, 8, {"loss": 3.0}),
        (10, 11, {"loss": 2.0}),
        (15, 14, {"loss": 2.0, "eval_loss": 2.5}),
    ):
        told = kubeflow_progress(body(second, current_step=step, total_steps=100, **metrics), 1, told)
    assert told is not None
    assert told.history == (
        HistoryPoint(step=5, loss=3.0),
        HistoryPoint(step=11, loss=2.0),
        HistoryPoint(step=14, eval_loss=2.5),
    )


def test_a_long_curve_stays_bounded_and_covers_the_whole_run() -> None:
    told = None
    for step in range(1, 1001):
        told = kubeflow_progress(body(step % 60, loss=1 / step, current_step=step, total_steps=1000), 1, told)
    assert told is not None
    steps = [point.step for point in told.history]
    assert (len(steps), steps[0], steps[-1]) == (HISTORY_POINTS, 1, 1000)
    gaps = [after - before for before, after in pairwise(steps)]
    assert max(gaps) <= 3 * 1000 / HISTORY_POINTS


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        (b"nonsense", "not valid JSON"),
        (b"{}", "trainerStatus is missing"),
        (b'{"trainerStatus": {}}', "trainerStatus.lastUpdatedTime is missing"),
        (b'{"trainerStatus": {"lastUpdatedTime": "now"}}', "'now' is not a time with an offset"),
        (b'{"trainerStatus": {"lastUpdatedTime": "2026-03-01T12:00:00"}}', "12:00:00' is not a time with an offset"),
        (body(current_step=1e308, total_steps=1e308), "total_steps must be between 0 and 2**53, not 1e+308"),
        (body(loss=2.5), "trainerStatus.metrics lacks total_steps, and no earlier report had it"),
        (END, "trainerStatus.metrics lacks total_steps"),
        (body().replace(b": 20", b': "20"'), "progressPercentage must be of type int, not '20'"),
        (STEP.replace(b'"20"', b"20"), "value must be of type str, not 20"),
    ],
)
def test_anything_else_is_refused_with_a_sentence(sent: bytes, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        kubeflow_progress(sent, 1, None)
