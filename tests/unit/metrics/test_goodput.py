"""Where the time of a job went: every second once, by hand and for any life."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftjob_contract.names import Stage
from sftjob_operator.api import AttemptStatus, CheckpointStatus, SFTJobStatus
from sftjob_operator.metrics.goodput import TimeUse, goodput
from support.fakes.fake_cluster import START, moment

PREPARED = {"stage": Stage.PREPARE, "number": 1, "start_time": moment(10), "end_time": moment(40), "exit_code": 0}


def train(number: int, start: float, end: float | None = None, **parts: Any) -> dict[str, Any]:
    entry = {"stage": Stage.TRAIN, "number": number, "start_time": moment(start), **parts}
    return entry if end is None else {**entry, "end_time": moment(end)}


def status(*attempts: dict[str, Any], saved: int | None = None, completed: float | None = None) -> SFTJobStatus:
    checkpoint = None if saved is None else CheckpointStatus(step=saved, uri="pvc://c/p", bytes=1, time=moment(0))
    return SFTJobStatus(
        attempts=tuple(AttemptStatus(pod="p", **attempt) for attempt in attempts),
        checkpoints=() if checkpoint is None else (checkpoint,),
        completion_time=None if completed is None else moment(completed),
    )


@pytest.mark.parametrize(
    ("told", "now", "expected"),
    [
        pytest.param(status(), 30, {"queued": 30}, id="nothing-has-begun"),
        pytest.param(
            status({**PREPARED, "end_time": None}), 15, {"queued": 10, "preparing": 5}, id="prepare-is-running"
        ),
        pytest.param(
            status({**PREPARED, "exit_code": 65}, completed=40), 99, {"queued": 10, "lost": 30}, id="prepare-failed"
        ),
        pytest.param(
            status(PREPARED, train(1, 60, evaluating_seconds=4)),
            80,
            {"queued": 30, "preparing": 30, "loading": 16, "evaluating": 4},
            id="before-the-first-step",
        ),
        pytest.param(
            status(PREPARED, train(1, 60, from_step=0, reached_step=5, loading_seconds=8, saving_seconds=3)),
            100,
            {"queued": 30, "preparing": 30, "loading": 8, "training": 29, "saving": 3},
            id="training",
        ),
        pytest.param(
            status(
                PREPARED,
                train(1, 60, 100, exit_code=0, from_step=0, reached_step=9, loading_seconds=8, evaluating_seconds=2),
                completed=100,
            ),
            5000,
            {"queued": 30, "preparing": 30, "loading": 8, "training": 30, "evaluating": 2},
            id="done-long-ago",
        ),
        pytest.param(
            status(
                train(1, 0, 50, exit_code=137, from_step=0, reached_step=40, lost_steps=10, loading_seconds=10),
                train(2, 60, from_step=30, reached_step=30),
            ),
            65,
            {"queued": 10, "loading": 15, "training": 30, "lost": 10},
            id="a-quarter-of-the-steps-is-done-again",
        ),
        pytest.param(
            status(train(1, 0, 50, exit_code=137, from_step=0, reached_step=40, loading_seconds=10), saved=20),
            50,
            {"loading": 10, "training": 20, "lost": 20},
            id="steps-after-the-newest-checkpoint-before-the-next-attempt",
        ),
        pytest.param(
            status(train(1, 0, 50, exit_code=75, from_step=0, reached_step=40, lost_steps=0, loading_seconds=10)),
            50,
            {"loading": 10, "training": 40},
            id="a-stop-that-saved",
        ),
        pytest.param(
            status(train(1, 0, 50, exit_code=70, from_step=30, reached_step=30, loading_seconds=10)),
            50,
            {"lost": 50},
            id="failed-without-a-step",
        ),
        pytest.param(status(train(1, 0, 20, reason="NodeLost")), 20, {"lost": 20}, id="gone-without-a-word"),
        pytest.param(
            status({"stage": Stage.TRAIN, "number": 1, "reason": "Unschedulable"}), 20, {"queued": 20}, id="never-began"
        ),
        pytest.param(
            status(train(1, 0, from_step=0, reached_step=7)), 20, {"training": 20}, id="a-trainer-that-tells-steps-only"
        ),
    ],
)
def test_the_parts_are_those_counted_by_hand(told: SFTJobStatus, now: float, expected: dict[str, float]) -> None:
    found = goodput(told, moment(0), START + timedelta(seconds=now))
    assert {use: seconds for use, seconds in found.items() if seconds} == expected


SECONDS = st.none() | st.floats(0, 500)


@st.composite
def lives(draw: st.DrawFn) -> tuple[SFTJobStatus, int]:
    """Attempts one after another, as the operator starts them, and the moment at which one looks."""
    clock, attempts = 0, []
    for number in range(1, draw(st.integers(0, 6)) + 1):
        clock += draw(st.integers(0, 100))
        begun = clock
        clock += draw(st.integers(0, 100))
        from_step = draw(st.none() | st.integers(0, 50))
        attempts.append(
            train(
                number,
                begun,
                clock,
                exit_code=draw(st.sampled_from([None, 0, 70, 75, 137])),
                from_step=from_step,
                reached_step=draw(st.none() | st.integers(from_step or 0, 100)),
                lost_steps=draw(st.none() | st.integers(0, 200)),
                loading_seconds=draw(SECONDS),
                evaluating_seconds=draw(SECONDS),
                saving_seconds=draw(SECONDS),
            )
        )
    if attempts and draw(st.booleans()):
        attempts[-1].pop("end_time")
        attempts[-1]["exit_code"] = None
    return status(*attempts, saved=draw(st.none() | st.integers(0, 100))), clock + draw(st.integers(0, 100))


@given(lives())
def test_every_second_is_counted_once(life: tuple[SFTJobStatus, int]) -> None:
    told, now = life
    found = goodput(told, moment(0), START + timedelta(seconds=now))
    assert list(found) == list(TimeUse)
    assert all(seconds >= 0 for seconds in found.values())
    assert sum(found.values()) == pytest.approx(now)
