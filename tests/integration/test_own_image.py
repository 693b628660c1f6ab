"""An image of the user's own: what its unmodified transformers Trainer tells shows in the SFTJob."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from sftjob_dev.stack import IMAGE
from support.jobs.builders import JobBuilder, a_command
from support.jobs.small_jobs import Status, condition, phase, reach
from support.stacks.running_stack import Lab
from support.trainer import own_trainer

pytestmark = pytest.mark.slow
NAME = "own-image"
STEPS = 4000
"""More than are done before somebody has looked: each takes own_trainer.LEAST_STEP_SECONDS at least."""


def an_own_image(name: str, *command: str) -> JobBuilder:
    """A job for the one image that the node has, with a program of its own."""
    job = a_command(*command, name=name, namespace="default").set("image", IMAGE)
    return job.storage(size="1Gi").resources(gpus=0, cpu="1")


@dataclass(frozen=True)
class Story:
    """A status of each attempt while it trained, and the last one."""

    first: Status
    second: Status
    last: Status


@pytest.fixture(scope="module")
def story(lab: Lab) -> Story:
    """The first attempt is asked to stop once it has reported, and so is the second one."""
    program = Path(own_trainer.__file__).read_text(encoding="utf-8")  # its path would be one of the Pod's, below /tmp
    lab.apply(an_own_image(NAME, "python", "-c", program, str(STEPS)))

    def eta_of(attempt: int, status: Status) -> bool:
        entries = status.get("attempts", [])
        told = len(entries) == attempt and "reachedStep" in entries[-1]
        return told and "etaSeconds" in status["progress"]

    told = []
    for attempt in (1, 2):
        told.append(reach(lab.cluster, NAME, lambda status, number=attempt: eta_of(number, status)))
        (lab.stack.volume(NAME) / f"stop-{attempt}").touch()
    return Story(*told, reach(lab.cluster, NAME, phase("Succeeded", "Failed")))


def test_step_percent_and_loss_are_shown_while_it_trains(story: Story) -> None:
    for status in (story.first, story.second):
        progress = status["progress"]
        assert status["phase"] == "Running"
        assert (progress["maxSteps"], progress["activity"]) == (STEPS, "Training")
        assert 0 < progress["step"] < STEPS
        assert progress["percent"] == 100 * progress["step"] // STEPS
        assert progress["loss"] > 0
        assert condition(status, "ProgressReporting")["status"] == "True"


def test_nothing_is_prepared(story: Story, lab: Lab) -> None:
    assert {entry["stage"] for entry in story.last["attempts"]} == {"train"}
    assert condition(story.last, "Prepared")["status"] == "True"
    pods = lab.kubectl.json("get", "pods", "-l", f"sftjob.dev/job={NAME}")["items"]
    assert [pod["metadata"]["name"] for pod in pods] == [f"{NAME}-train-1", f"{NAME}-train-2"]


def test_the_attempt_after_exit_code_75_goes_on_and_counts_no_failure(story: Story) -> None:
    first, second = story.last["attempts"]
    assert (first["exitCode"], first["reason"]) == (75, "Interrupted")
    assert second["reachedStep"] > first["reachedStep"] > 0
    assert story.last["interruptions"] == 1


def test_the_eta_after_a_resume_is_no_shorter_than_the_steps_that_are_left_can_take(story: Story) -> None:
    progress = story.second["progress"]
    least = (STEPS - progress["step"]) * own_trainer.LEAST_STEP_SECONDS
    assert progress["etaSeconds"] >= int(least)


def test_an_early_stop_is_as_far_as_its_last_report_says(story: Story) -> None:
    assert story.last["phase"] == "Succeeded"
    step = story.last["progress"]["step"]
    assert 0 < step < STEPS
    assert story.last["progress"]["percent"] == 100 * step // STEPS


def test_a_program_that_fails_tells_the_last_lines_of_its_log(lab: Lab) -> None:
    program = "print('reading rows'); raise SystemExit('no column: text')"
    job = an_own_image("own-failure", "python", "-c", program).failure_policy(max_retries=0)
    lab.apply(job)
    status = reach(lab.cluster, "own-failure", phase("Succeeded", "Failed"))
    said = condition(status, "Succeeded")
    assert (status["phase"], said["status"]) == ("Failed", "False")
    assert "exit code 1" in said["message"]
    assert "no column: text" in said["message"]
    assert "kubectl logs -n default own-failure-train-1" in said["message"]
