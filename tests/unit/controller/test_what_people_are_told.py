"""What somebody who watches is told while a job lives: few Events, each once, and log lines that name job and Pod."""

import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest

from sftjob_contract.names import Stage
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.progress import SkippedCheckpoint
from sftjob_operator.effects.cluster import Object
from sftjob_operator.runtime.logs import JsonFormatter, name_pods
from support.fakes.fake_cluster import INTERVAL_SECONDS, World, an_outcome, ended, running, unschedulable, waiting
from support.fakes.metered import KEY, a_report, trained
from support.jobs.builders import a_job


def events(world: World) -> list[tuple[str, str, str]]:
    bodies = [body for (kind, _, _), body in world.cluster.objects.items() if kind == "Event"]
    return [(body["type"], body["reason"], body["message"]) for body in bodies]


async def crashes(world: World, times: int) -> tuple[str, str]:
    """A job whose trainer is killed that often, and then succeeds; its steps are told all the while."""
    key = await world.apply(a_job().failure_policy(max_retries=10))
    await world.pod("demo-prepare-1", running())
    await world.pod("demo-prepare-1", ended(0, an_outcome(Stage.PREPARE)))
    for attempt in range(1, times + 1):
        await world.pod(f"demo-train-{attempt}", running())
        await world.pod(f"demo-train-{attempt}", ended(137))
        await world.pass_time(600)
    await world.pod(f"demo-train-{times + 1}", running())
    await world.pod(f"demo-train-{times + 1}", ended(0, an_outcome(Stage.TRAIN)))
    return key


async def test_a_job_without_trouble_has_four_events() -> None:
    world = World()
    await crashes(world, 0)
    started = ("Normal", "AttemptStarted")
    told = [(type_, reason) for type_, reason, _ in events(world)]
    assert told == [started, ("Normal", "Prepared"), started, ("Normal", "Completed")]


async def test_a_job_with_trouble_has_one_event_for_each_attempt_that_failed() -> None:
    world = World()
    await crashes(world, 3)
    told = [(type_, reason) for type_, reason, _ in events(world) if reason not in ("AttemptStarted", "Prepared")]
    assert told == [("Warning", "Killed")] * 3 + [("Normal", "Completed")]


MOVED = (
    "Files of SFTJob team/demo (uid 1) at pvc://kept/demo were renamed and are now at pvc://kept/demo.moved-aside-2."
)


@pytest.mark.parametrize("exit_code", [0, 65], ids=["prepared", "failed"])
async def test_what_was_moved_aside_is_in_the_status_and_an_event_however_preparing_ended(exit_code: int) -> None:
    world = World()
    key = await world.apply(a_job().storage(existing_claim="kept", existing_content="MoveAside"))
    await world.pod("demo-prepare-1", running())
    await world.pod("demo-prepare-1", ended(exit_code, an_outcome(Stage.PREPARE, exit_code, moved_aside=MOVED)))
    await world.pass_time(INTERVAL_SECONDS)
    assert world.status(key)["movedAside"] == MOVED
    assert [message for _, reason, message in events(world) if reason == "MovedAside"] == [MOVED]
    if exit_code == 0:
        await world.pod("demo-train-1", running())
        world.cluster.remove("Pod", "team", "demo-prepare-1")
        await world.settle()
        await world.restart_operator()
        told = {condition["type"]: condition["message"] for condition in world.status(key)["conditions"]}
        assert told["Prepared"].endswith(MOVED)


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        (unschedulable("0/3 nodes are available"), Reason.UNSCHEDULABLE, "0/3 nodes are available"),
        (waiting("ErrImagePull", "no such manifest"), Reason.IMAGE_PULL_FAILED, "ErrImagePull: no such manifest"),
    ],
)
async def test_why_a_pod_does_not_start_is_told_within_seconds_and_in_one_event(
    status: Object, reason: str, words: str
) -> None:
    world = World()
    key = await world.apply(a_job())
    await world.pod("demo-prepare-1", status)
    await world.pass_time(INTERVAL_SECONDS)
    await world.pass_time(INTERVAL_SECONDS)
    await world.restart_operator()
    (said,) = [entry for entry in world.status(key)["conditions"] if entry["type"] == "Prepared"]
    assert said["reason"] == reason
    assert words in said["message"]
    assert events(world) == [("Warning", reason, said["message"])]


async def test_a_job_that_fails_has_one_event_for_its_end_alone() -> None:
    world = World()
    await world.apply(a_job())
    invalid = an_outcome(Stage.PREPARE, exit_code=65, reason=Reason.DATA_INVALID, message="train.jsonl:3: no text.")
    await world.pod("demo-prepare-1", ended(65, invalid))
    ((type_, reason, message),) = events(world)
    assert (type_, reason) == ("Warning", "DataInvalid")
    assert "train.jsonl:3: no text." in message


async def test_events_are_sentences_with_a_reason_in_one_word() -> None:
    world = World()
    await crashes(world, 2)
    for _, reason, message in events(world):
        assert re.fullmatch("[A-Z][A-Za-z]+", reason)
        assert message[0].isupper()
        assert message.endswith((".", ")")), message
        assert len(message) < 400


async def test_an_operator_that_starts_again_says_nothing_twice() -> None:
    world = World()
    await crashes(world, 2)
    told = events(world)
    await world.restart_operator()
    await world.pass_time(3600)
    assert events(world) == told


async def test_what_a_trainer_says_of_a_skipped_checkpoint_shows_no_secret() -> None:
    world = World()
    await trained(world)
    why = "clone https://me:made-up-secret@host failed"
    skipped = SkippedCheckpoint(path="checkpoints/checkpoint-60", why=why)
    world.controller.report(KEY, a_report(60, skipped_checkpoints=(skipped,)))
    await world.pass_time(60)
    told = f"{world.status(KEY)} {events(world)}"
    assert "checkpoints/checkpoint-60 was skipped: clone https" in told
    assert "made-up-secret" not in told


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    """Lines of our loggers, as they are printed."""
    printed: list[dict[str, Any]] = []
    handler, root, ours = logging.StreamHandler(), logging.getLogger(), logging.getLogger("sftjob_operator")
    handler.emit = lambda record: printed.append(json.loads(handler.format(record)))  # type: ignore[method-assign]
    handler.setFormatter(JsonFormatter())
    level = ours.level
    root.addHandler(handler)
    ours.setLevel(logging.INFO)
    yield printed
    ours.setLevel(level)
    root.removeHandler(handler)


async def test_every_line_about_a_job_names_its_newest_pod(lines: list[dict[str, Any]]) -> None:
    world = World()
    name_pods(world.controller.newest_pod)
    await crashes(world, 1)
    about = [(line["job"], line["attempt"], line["pod"]) for line in lines if "job" in line]
    assert len(about) == len(lines) >= 6
    assert list(dict.fromkeys(about)) == [
        ("team/demo", 1, "demo-prepare-1"),
        ("team/demo", 1, "demo-train-1"),
        ("team/demo", 2, "demo-train-2"),
    ]


async def test_of_a_job_that_ended_before_the_operator_began_the_status_tells_the_pod() -> None:
    world = World()
    await crashes(world, 1)
    await world.restart_operator()
    assert world.controller.newest_pod("team/demo") == (2, "demo-train-2")
    assert world.controller.newest_pod("team/other") is None


async def test_of_several_pods_the_first_is_named() -> None:
    world = World()
    job = a_job().resources(nodes=2, gpus=1)
    await world.apply(job)
    await world.pod("demo-prepare-1", ended(0, an_outcome(Stage.PREPARE)))
    assert world.controller.newest_pod("team/demo") == (1, "demo-train-1-0")
