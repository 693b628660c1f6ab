"""What a status says of a trainer's report on speed and memory."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from sftjob_contract.reports.progress import PROGRESS_VERSION, Activity, Checkpoint, HistoryPoint, Progress
from sftjob_operator.api import ProgressStatus, SFTJobStatus, parse_job
from sftjob_operator.reconcile.reports.status_parts import stopped, with_columns, with_progress
from support.jobs.builders import JobBuilder, a_job

REPORT = Progress(
    version=PROGRESS_VERSION,
    attempt=1,
    activity=Activity.TRAINING,
    time="2026-05-04T03:02:01Z",
    step=5,
    max_steps=10,
    resumed_from_step=0,
    tokens=1000,
    tokens_per_second=800.0,
    mfu=0.45,
    step_seconds=1.25,
    data_wait_seconds=0.25,
    peak_memory_bytes=10**9,
    loaded_bytes=3 * 10**9,
    weights_bytes=4 * 10**9,
)


def status_after(*reports: Progress, body: JobBuilder | None = None) -> SFTJobStatus:
    body = body or a_job()
    job = parse_job({"metadata": {**body.metadata, "uid": "u"}, "spec": body.spec})
    status = SFTJobStatus()
    for report in reports:
        status = with_progress(status, job, report, datetime(2026, 5, 4, tzinfo=UTC))
    return status


def told(report: Progress, *, gpus: int = 0, nodes: int = 1) -> ProgressStatus:
    status = status_after(report, body=a_job().set("resources", {"gpus": gpus, "nodes": nodes}))
    assert status.progress is not None
    return status.progress


@pytest.mark.parametrize(("gpus", "nodes", "expected"), [(0, 1, 800.0), (1, 1, 800.0), (4, 1, 200.0), (4, 2, 100.0)])
def test_speed_is_told_for_all_devices_and_for_each(gpus: int, nodes: int, expected: float) -> None:
    progress = told(REPORT, gpus=gpus, nodes=nodes)

    assert (progress.tokens_per_second, progress.tokens_per_second_per_device) == (800.0, expected)


def test_utilization_step_data_wait_and_memory_are_those_of_the_report() -> None:
    progress = told(REPORT)

    assert (progress.mfu, progress.step_seconds, progress.data_wait_seconds) == (0.45, 1.25, 0.25)
    assert progress.peak_memory_bytes == 10**9


def test_bytes_of_weights_are_shown_while_they_are_loaded() -> None:
    progress = told(REPORT)

    assert (progress.loaded_bytes, progress.weights_bytes) == (3 * 10**9, 4 * 10**9)
    assert stopped(progress, a_job().build(), finished=False).loaded_bytes is None


def test_what_is_not_known_is_not_told() -> None:
    progress = told(replace(REPORT, tokens_per_second=None, mfu=None, peak_memory_bytes=None))

    assert (progress.tokens_per_second_per_device, progress.mfu, progress.peak_memory_bytes) == (None, None, None)


def test_an_attempt_that_was_broken_off_has_no_speed_any_more_but_the_memory_that_it_took() -> None:
    over = stopped(told(REPORT), a_job().build(), finished=False)

    assert (over.tokens_per_second, over.tokens_per_second_per_device, over.mfu) == (None, None, None)
    assert (over.step_seconds, over.data_wait_seconds, over.peak_memory_bytes) == (None, None, 10**9)
    assert stopped(told(REPORT), a_job().build(), finished=True).mfu == 0.45


def saved(*steps: int) -> tuple[Checkpoint, ...]:
    return tuple(Checkpoint(step=n, path=f"checkpoints/checkpoint-{n}", bytes=1, time=REPORT.time) for n in steps)


@pytest.mark.parametrize(
    ("told", "unverified", "listed"),
    [
        pytest.param((6,), (4, 2), [2, 4, 6], id="both are verified again"),
        pytest.param((4, 6), (2,), [2, 4, 6], id="one still is"),
        pytest.param((6,), (2,), [2, 6], id="one is broken"),
        pytest.param((6,), (), [6], id="both are broken"),
        pytest.param((4,), (3, 2), [2, 4], id="one that was never listed"),
        pytest.param((6, 8), (6, 4), [4, 6, 8], id="one that is told anyway"),
    ],
)
def test_a_listed_checkpoint_stays_so_while_the_next_attempt_verifies_it_again(
    told: tuple[int, ...], unverified: tuple[int, ...], listed: list[int]
) -> None:
    before = replace(REPORT, checkpoints=saved(2, 4, 6))
    after = replace(REPORT, attempt=2, checkpoints=saved(*told), unverified_checkpoints=unverified)

    status = status_after(before, after)

    assert [checkpoint.step for checkpoint in status.checkpoints] == listed
    assert (status.latest_checkpoint or "").endswith(f"checkpoint-{max(told)}")


def evaluated(*losses: float) -> Progress:
    """A report after these evaluations, with the newest as its own."""
    points = tuple(HistoryPoint(step=step, eval_loss=loss) for step, loss in enumerate(losses))
    return replace(REPORT, history=points, eval_loss=losses[-1] if losses else None)


@pytest.mark.parametrize(
    ("losses", "change"),
    [((), None), ((6.941,), "6.94"), ((6.941, 3.682), "6.94 -> 3.68"), ((12.0, 3.0, 0.01234), "12 -> 0.0123")],
)
def test_what_was_learned_is_told_as_first_and_newest_evaluation_loss(
    losses: tuple[float, ...], change: str | None
) -> None:
    shown = with_columns(status_after(evaluated(*losses)), a_job().build()).progress
    assert shown is not None
    assert (shown.eval_loss_change, shown.percent_text) == (change, "50%")


def test_gpus_are_those_of_all_nodes() -> None:
    job = a_job().resources(gpus=8, nodes=2).storage(access_modes=["ReadWriteMany"])
    assert with_columns(SFTJobStatus(), job.build()).gpus == 16
