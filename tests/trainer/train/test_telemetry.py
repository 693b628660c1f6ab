"""What is told about a run: arithmetic over injected clocks."""

import math
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from sftjob_contract.codec import from_json, to_json
from sftjob_contract.names import PROGRESS_BODY_LIMIT_BYTES
from sftjob_contract.reports.progress import HISTORY_POINTS, Activity, Checkpoint, HistoryPoint, SkippedCheckpoint
from sftjob_trainer.reporting.mfu import ComputeCost
from sftjob_trainer.reporting.telemetry import History, SavedTelemetry, Telemetry, TrainingLog


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def telemetry(clock: Clock, max_steps: int = 100, attempt: int = 1, started: float | None = None) -> Telemetry:
    return Telemetry(
        attempt=attempt,
        max_steps=max_steps,
        clock=clock,
        now=lambda: datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC),
        started=started,
    )


def log(step: int, *, loss: float = 2.0, tokens: int = 0) -> TrainingLog:
    return TrainingLog(step=step, loss=loss, learning_rate=1e-4, grad_norm=0.5, tokens=tokens)


def take_steps(run: Telemetry, clock: Clock, count: int, seconds: float) -> None:
    run.set_activity(Activity.TRAINING)
    for _ in range(count):
        clock.seconds += seconds
        run.end_step(run.step + 1, epoch=0.0)


def test_before_the_first_step_little_is_known(clock: Clock) -> None:
    state = telemetry(clock).progress()

    assert (state.activity, state.step, state.max_steps, state.tokens) == (Activity.LOADING, 0, 100, 0)
    assert state.time == "2026-05-04T03:02:01Z"
    assert (state.loss, state.eta_seconds, state.tokens_per_second) == (None, None, None)


def test_the_remaining_time_is_the_mean_step_so_far_times_the_steps_to_go(clock: Clock) -> None:
    run = telemetry(clock)
    clock.seconds += 60  # loading is not counted
    take_steps(run, clock, 10, seconds=2)
    assert run.progress().eta_seconds == 180

    run.set_activity(Activity.EVALUATING)  # comes again, so it is
    clock.seconds += 10
    take_steps(run, clock, 10, seconds=2)

    assert run.progress().eta_seconds == 200


def test_throughput_counts_time_in_steps_only(clock: Clock) -> None:
    run = telemetry(clock)
    take_steps(run, clock, 4, seconds=1)
    run.set_activity(Activity.SAVING)
    clock.seconds += 1000
    take_steps(run, clock, 6, seconds=1)
    run.record_log(log(10, tokens=5000))

    assert run.progress().tokens_per_second == 500.0
    assert run.metrics()["trainSeconds"] == 10.0


def test_a_resumed_run_adds_to_what_was_known(clock: Clock) -> None:
    first = telemetry(clock)
    first.record_evaluation(0, 4.0)
    take_steps(first, clock, 10, seconds=1)
    first.record_log(log(10, loss=3.0, tokens=1000))
    first.record_evaluation(10, 2.5)
    saved = from_json(SavedTelemetry, to_json(first.saved()), ignore_unknown=False)

    second = telemetry(clock, attempt=2)
    second.resume(saved)
    second.add_skipped((SkippedCheckpoint(path="checkpoints/checkpoint-12", why="truncated"),))
    take_steps(second, clock, 5, seconds=2)
    second.record_log(log(15, loss=1.5, tokens=600))

    state = second.progress()
    assert (state.attempt, state.step, state.resumed_from_step, state.tokens) == (2, 15, 10, 1600)
    assert state.tokens_per_second == 60.0  # of this attempt
    assert state.eta_seconds == 170
    assert state.skipped_checkpoints[0].why == "truncated"
    assert [point.step for point in state.history] == [0, 10, 15]
    assert second.metrics() == {
        "initialEvalLoss": 4.0,
        "evalLoss": 2.5,
        "evalPerplexity": math.exp(2.5),
        "trainLoss": (3.0 * 10 + 1.5 * 5) / 15,
        "trainSeconds": 20.0,
    }


def test_the_time_to_the_first_step_is_told_by_part_from_the_start_of_the_process(clock: Clock) -> None:
    run = telemetry(clock, started=clock.seconds - 1)
    for part, seconds in (("imports", 6.0), ("model", 2.0), ("data", 0.5)):
        clock.seconds += seconds
        run.finish_startup_part(part)
    clock.seconds += 0.25
    take_steps(run, clock, 2, seconds=4)

    assert run.progress().loading_seconds == 9.75
    assert run.loading_parts == {"imports": 7.0, "model": 2.0, "data": 0.5, "set-up": 0.25, "first step": 4.0}


def test_the_evaluation_before_the_first_step_is_evaluating_and_not_loading(clock: Clock) -> None:
    run = telemetry(clock)
    clock.seconds += 3
    run.set_activity(Activity.EVALUATING)
    clock.seconds += 20
    take_steps(run, clock, 1, seconds=1)

    assert (run.progress().loading_seconds, run.progress().evaluating_seconds) == (3.0, 20.0)


def test_a_step_is_told_with_what_it_waited_for_data_as_the_mean_since_the_log_before(clock: Clock) -> None:
    run = telemetry(clock)
    take_steps(run, clock, 1, seconds=60)  # compiling, say
    run.record_log(log(1, tokens=100))
    with run.waiting_for_data():
        clock.seconds += 3
    take_steps(run, clock, 2, seconds=2)
    run.record_log(log(3, tokens=300))

    state = run.progress()
    assert (state.step_seconds, state.data_wait_seconds) == (3.5, 1.5)


def test_evaluations_and_saves_are_added_up_and_the_longest_save_is_known(clock: Clock) -> None:
    run = telemetry(clock)
    assert (run.progress().evaluating_seconds, run.progress().longest_save_seconds) == (None, None)
    for seconds in (5, 7):
        take_steps(run, clock, 1, seconds=1)
        run.set_activity(Activity.EVALUATING)
        clock.seconds += 10
        run.set_activity(Activity.SAVING)
        clock.seconds += seconds
        run.set_checkpoints((), None)
    take_steps(run, clock, 1, seconds=1)
    run.set_activity(Activity.SAVING)
    clock.seconds += 100  # the output, which is no checkpoint

    state = run.progress()
    assert (state.evaluating_seconds, state.saving_seconds, state.longest_save_seconds) == (20.0, 12.0, 7.0)


def test_utilization_is_that_of_the_last_window_and_memory_is_the_highest_so_far(clock: Clock) -> None:
    run = telemetry(clock)
    run.set_compute_cost(ComputeCost(flops_per_token=6e9, peak_flops=1e15))
    take_steps(run, clock, 1, seconds=60)
    run.record_log(log(1, tokens=50_000))
    take_steps(run, clock, 1, seconds=1)
    run.record_log(replace(log(2, tokens=150_000), peak_memory_bytes=7))

    assert run.progress().mfu == 0.6
    assert run.progress().peak_memory_bytes == 7


def test_what_was_waited_for_in_an_attempt_before_counts_nowhere(clock: Clock) -> None:
    first = telemetry(clock)
    take_steps(first, clock, 10, seconds=100)
    first.record_log(log(10, tokens=1000))
    second = telemetry(clock, attempt=2)
    second.resume(first.saved())
    take_steps(second, clock, 2, seconds=3)
    second.record_log(log(12, tokens=200))

    assert second.progress().step_seconds == 3.0
    assert second.metrics()["trainSeconds"] == 1006.0


def test_an_evaluation_loss_belongs_to_its_step(clock: Clock) -> None:
    run = telemetry(clock)
    run.record_evaluation(4, 2.0)

    assert (run.eval_loss_at(4), run.eval_loss_at(5)) == (2.0, None)


def test_a_perplexity_that_no_number_can_hold_is_left_out(clock: Clock) -> None:
    run = telemetry(clock)
    run.record_evaluation(0, 2000.0)

    assert "evalPerplexity" not in run.metrics()


@pytest.mark.parametrize("max_steps", [1, 5, 47, 48, 100, 999, 100_000])
def test_the_history_is_bounded_ordered_and_ends_with_the_last_step(max_steps: int) -> None:
    history = History(max_steps)
    history.add(HistoryPoint(step=0, eval_loss=9.0))
    for step in range(1, max_steps + 1):
        history.add(HistoryPoint(step=step, loss=1.0 / step))

    steps = [point.step for point in history.points]
    assert len(steps) == min(max_steps + 1, HISTORY_POINTS)
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (0, max_steps)


def test_log_and_evaluation_of_one_step_are_one_point() -> None:
    history = History(10)
    history.add(HistoryPoint(step=5, loss=1.0))
    history.add(HistoryPoint(step=5, eval_loss=2.0))

    assert history.points == (HistoryPoint(step=5, loss=1.0, eval_loss=2.0),)


def test_an_evaluated_point_stands_for_its_stretch_of_steps() -> None:
    history = History(4700)
    history.add(HistoryPoint(step=10, loss=1.0))
    history.add(HistoryPoint(step=20, loss=1.1, eval_loss=2.0))
    history.add(HistoryPoint(step=30, loss=1.2))

    assert [point.step for point in history.points] == [20]


def test_the_largest_state_fits_a_report(clock: Clock) -> None:
    run = telemetry(clock, max_steps=1_000_000)
    for step in range(0, 1_000_001, 10_000):
        run.record_log(log(step, loss=1.2345678901234567 / (step + 1), tokens=step * 10**6))
        run.record_evaluation(step, 1.2345678901234567)
    checkpoint = Checkpoint(
        step=10**6,
        path="checkpoints/checkpoint-1000000",
        bytes=10**12,
        time=run.timestamp(),
        eval_loss=1.23456789012345,
    )
    run.set_checkpoints((checkpoint,) * 100, best_step=10**6)

    assert len(to_json(run.progress()).encode()) < PROGRESS_BODY_LIMIT_BYTES / 2
