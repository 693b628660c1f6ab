"""What a trainer tells of a run of 100 steps, which begins when the tests' clock does."""

from typing import Any

from sftjob_contract.reports.progress import PROGRESS_VERSION, Activity, Progress
from support.fakes.fake_cluster import moment


def a_progress(step: int, attempt: int = 1, seconds: float = 0, **parts: Any) -> Progress:
    """A report at `step` of an attempt, so long after the start. It has done as many tokens as steps."""
    usual = {"activity": Activity.TRAINING, "max_steps": 100, "resumed_from_step": 0, "tokens": step}
    return Progress(version=PROGRESS_VERSION, attempt=attempt, time=moment(seconds), step=step, **{**usual, **parts})
