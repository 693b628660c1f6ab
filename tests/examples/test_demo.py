import subprocess
import sys
from typing import Any

import pytest

from examples.quickstart.demo import PHASES, Followed, failures, finished


def ended(phase: str, before: float | None = None, after: float | None = None) -> Followed:
    metrics = {name: value for name, value in (("initialEvalLoss", before), ("evalLoss", after)) if value is not None}
    job: dict[str, Any] = {
        "metadata": {"name": "quickstart"},
        "status": {
            "phase": phase,
            "conditions": [{"type": "Succeeded", "status": "False", "message": "train.jsonl:3: no assistant turn"}],
            "output": {"metrics": metrics},
        },
    }
    return Followed(job, ("Pending", "Preparing", "Running", phase), tuple(range(0, 900, 100)))


def seen(phases: tuple[str, ...], steps: tuple[int, ...]) -> Followed:
    """A job that succeeded after `phases` and `steps`."""
    return Followed(ended("Succeeded", 6.6, 3.5).job, phases, steps)


GOOD = ended("Succeeded", 6.6, 3.5)


@pytest.mark.parametrize(
    ("full", "lora", "sentences"),
    [
        (GOOD, ended("Succeeded", 3.5, 3.3), []),
        (ended("Failed"), None, ["quickstart ended as Failed: train.jsonl:3: no assistant turn"]),
        (
            ended("Succeeded", 6.0, 3.6),
            ended("Succeeded", 3.6, 3.3),
            ["quickstart: evaluation loss 3.600 is not below 60% of 6.000"],
        ),
        (
            ended("Succeeded"),
            ended("Succeeded", 3.5, 3.3),
            [
                "quickstart: evaluation loss nan is not below 60% of nan",
                "quickstart-lora: evaluation loss 3.300 is not below nan",
            ],
        ),
        (GOOD, ended("Succeeded", 3.5, 3.5), ["quickstart-lora: evaluation loss 3.500 is not below 3.500"]),
        (GOOD, ended("Failed"), ["quickstart-lora ended as Failed: train.jsonl:3: no assistant turn"]),
    ],
)
def test_what_the_demo_says_went_wrong(full: Followed, lora: Followed | None, sentences: list[str]) -> None:
    assert failures(full, lora) == sentences


def test_a_job_whose_status_did_not_show_its_way_is_no_success() -> None:
    assert failures(seen(("Running", "Succeeded"), (10, 5)), None) == [
        "quickstart went through Running, Succeeded, not Pending, Preparing, Running, Succeeded",
        "quickstart: its step was seen as (10, 5), not as at least 3 rising ones",
    ]


@pytest.mark.parametrize(("status", "over"), [("Unknown", False), ("True", True), ("False", True)])
def test_a_job_is_over_once_it_is_known_how_it_ended(status: str, over: bool) -> None:
    assert finished({"status": {"conditions": [{"type": "Succeeded", "status": status}]}}) is over


def test_a_fast_machine_need_not_show_more_of_a_job_than_its_start_its_end_and_a_step_between() -> None:
    assert failures(seen(PHASES, (0, 287, 500)), None) == []
    assert failures(seen(PHASES, (0, 500)), None) == [
        "quickstart: its step was seen as (0, 500), not as at least 3 rising ones"
    ]


def test_a_job_without_conditions_is_not_over() -> None:
    assert not finished({"metadata": {"name": "quickstart"}})


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_both_jobs_of_the_demo_succeed_and_learn() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.quickstart.demo"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Both jobs succeeded, and both learned." in done.stdout
