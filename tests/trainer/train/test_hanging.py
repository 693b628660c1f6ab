"""A run that stands still ends as Hung, in bounded time, and leaves what is needed to find out why."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from sftjob_contract import layout
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.progress import Activity
from sftjob_trainer.process import watchdog
from sftjob_trainer.process.watchdog import FACTOR, MIN_SECONDS, Hang, HangTimeouts, Watchdog
from sftjob_trainer.run.checkpoints import CheckpointStore
from support import faults
from support.trainer.processes import prepare_for_two, train_in_one, train_in_two
from support.trainer.training import job, write_prepared

LOADING, TRAINING, SAVING = Activity.LOADING, Activity.TRAINING, Activity.SAVING


@pytest.mark.parametrize(
    ("activity", "took", "allowed"),
    [
        pytest.param(LOADING, [], MIN_SECONDS[LOADING], id="loading"),
        pytest.param(TRAINING, [], MIN_SECONDS[LOADING], id="the first step, in which kernels are compiled"),
        pytest.param(TRAINING, [0.5, 2.0], MIN_SECONDS[TRAINING], id="quick steps"),
        pytest.param(TRAINING, [50.0, 90.0, 40.0], FACTOR * 90.0, id="slow steps"),
        pytest.param(TRAINING, [900.0, *[40.0] * 50], FACTOR * 40.0, id="a first step that is long ago"),
        pytest.param(SAVING, [], MIN_SECONDS[SAVING], id="the first save"),
        pytest.param(SAVING, [400.0], FACTOR * 400.0, id="slow saves"),
    ],
)
def test_how_long_nothing_may_be_heard_follows_from_the_pace_so_far(
    activity: Activity, took: Sequence[float], allowed: float
) -> None:
    pace = HangTimeouts()
    for seconds in took:
        pace.record(activity, seconds)

    assert pace.timeout_seconds(activity) == allowed


def test_one_activity_says_nothing_about_another() -> None:
    pace = HangTimeouts()
    pace.record(Activity.EVALUATING, 5000.0)
    pace.record(TRAINING, 1.0)

    assert pace.timeout_seconds(TRAINING) == MIN_SECONDS[TRAINING]


def test_silence_is_noticed_in_the_activity_that_was_last_heard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(watchdog.MIN_SECONDS, SAVING, 0.01)
    noticed: list[Hang] = []
    over = threading.Event()

    def silent(silence: Hang) -> None:
        noticed.append(silence)
        over.set()

    dog = Watchdog()
    with dog.guard(silent):
        dog.heartbeat(SAVING)
        assert over.wait(60)

    assert noticed == [Hang(activity=SAVING, allowed_seconds=0.01)]


def test_nobody_is_disturbed_while_life_is_heard_of_or_after_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    dog = Watchdog(clock=lambda: now)

    with dog.guard(lambda _silence: pytest.fail("disturbed")):
        for _ in range(100):
            now += MIN_SECONDS[TRAINING] - 1
            dog.heartbeat(TRAINING)
    now += 10 * MIN_SECONDS[LOADING]
    dog.heartbeat(TRAINING)

    assert "watchdog" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.slow
def test_a_process_that_stands_still_ends_with_the_place_in_its_last_word_and_all_stacks_in_the_log(
    qwen2: Path, tmp_path: Path
) -> None:
    volume = tmp_path / "volume"
    config = job(qwen2, max_steps=50, save_every=2)
    write_prepared(volume, config)

    ended = train_in_one(tmp_path / "pod", volume, config, faults.impatient(5), faults.hang(3))

    assert ended.code == ExitCode.INTERNAL, ended.err
    assert ended.outcome is not None
    assert ended.outcome.reason is Reason.HUNG
    assert ended.outcome.message is not None
    assert ended.outcome.message.startswith("training hangs: no heartbeat from the process for ")
    assert " after step 3 (Training), many times what was usual; it is at arrangements.py:" in ended.outcome.message
    assert ended.outcome.progress is not None
    assert ended.outcome.progress.step == 3
    for log in (ended.err, (volume / layout.TRAIN_LOG).read_text()):
        assert "arrangements.py" in log
        assert "in train" in log
    assert CheckpointStore(volume, keep=3).open().step == 2


@pytest.mark.slow
def test_a_process_in_which_no_other_thread_can_run_ends_too_and_shows_its_stack(qwen2: Path, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    config = job(qwen2, max_steps=50, save_every=2)
    write_prepared(volume, config)

    ended = train_in_one(tmp_path / "pod", volume, config, faults.impatient(5), faults.hang(3, holding_gil=True))

    assert (ended.code, ended.outcome) == (1, None)
    assert "Timeout (" in ended.err
    assert "arrangements.py" in ended.err
    assert CheckpointStore(volume, keep=3).open().step == 2


@pytest.mark.slow
@pytest.mark.parametrize("holding_gil", [False, True])
def test_of_several_processes_the_one_that_stands_still_is_named_and_all_stacks_are_shown(
    qwen2: Path, tmp_path: Path, holding_gil: bool
) -> None:
    """One whose other threads cannot run has no last word; that of the one that waits for it is all there is."""
    volume = tmp_path / "volume"
    config = job(qwen2, max_steps=50, save_every=2)
    prepare_for_two(volume, config)

    ended = train_in_two(
        tmp_path / "pod", volume, config, faults.impatient(5), faults.hang(3, holding_gil=holding_gil, rank=1)
    )

    assert ended.code == ExitCode.INTERNAL, ended.err
    assert ended.outcome is not None
    assert ended.outcome.reason is Reason.HUNG
    assert ended.outcome.message is not None
    assert ended.outcome.blames_peer is holding_gil
    assert f"no heartbeat from the process of rank {0 if holding_gil else 1}" in ended.outcome.message
    assert "arrangements.py" in ended.err
    assert "graph.py" in ended.err or "distributed_c10d.py" in ended.err
    assert CheckpointStore(volume, keep=3).open().step == 2
