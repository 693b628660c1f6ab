"""The operator is killed before and after every single write of a whole life; another one ends it the same."""

import random
from collections.abc import Iterable
from typing import Any

import pytest

from support.fakes.crash_points import CrashPoint, Moment, MortalWorld, final_state, live
from support.fakes.denials import denials_of
from support.fakes.job_lives import KEY, LIVES, PUBLISHED_LIVES

ALL = {**LIVES, **PUBLISHED_LIVES}
QUICK = ("killed, then success", "bad data", "several nodes", "published by a stage")
"""Lives that every run of the tests goes through: a retry, a failure, several Pods at once, every stage."""


def lives(names: Iterable[str]) -> list[Any]:
    """Parameters of a test; all lives but a few are left to the slow tests."""
    return [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", lives(ALL))
async def test_whenever_the_operator_is_killed_the_end_is_the_same(name: str) -> None:
    life = ALL[name]
    undisturbed = await live(life)
    expected = final_state(undisturbed)
    assert undisturbed.status(KEY)["phase"] in ("Succeeded", "Failed")
    assert undisturbed.mortal.writes, "nothing was written, so nothing is tested"
    differing = []
    for number, what in enumerate(undisturbed.mortal.writes, start=1):
        for moment in Moment:
            world = await live(life, CrashPoint(number, moment))
            if final_state(world) != expected or twice(world):
                differing.append(f"{moment} write {number} ({what}): {twice(world) or 'another end'}")
    assert differing == []


def creates(world: MortalWorld) -> list[tuple[str, str]]:
    """`KIND/NAME` and kind of every child that was created, in order; Events are told elsewhere."""
    created = [write.removeprefix("create ") for write in world.mortal.writes if write.startswith("create ")]
    return [(child, child.split("/")[0]) for child in created if not child.startswith("Event/")]


UNTIMED = [name for name, life in ALL.items() if not life.acts and not life.stuck]
"""Lives in which nothing is done at a certain moment: a wait for a create changes no more than times."""


async def test_whatever_refuses_whichever_create_once_the_end_is_the_same() -> None:
    life = LIVES["killed, then success"]
    undisturbed = await live(life)
    differing = []
    for child, kind in creates(undisturbed):
        for denial in denials_of(kind):
            world = await live(life, denied={child: denial})
            if final_state(world) != final_state(undisturbed) or twice(world):
                differing.append(f"{child}, refused by {denial.what}: {twice(world) or world.status(KEY)['phase']}")
    assert differing == []


@pytest.mark.parametrize("name", lives(UNTIMED))
async def test_if_every_create_is_refused_once_the_end_is_the_same(name: str) -> None:
    life = ALL[name]
    undisturbed = await live(life)
    refusals = random.Random(name)
    denied = {child: refusals.choice(denials_of(kind)) for child, kind in creates(undisturbed)}
    world = await live(life, denied=denied)
    refused = {child: denial.what for child, denial in denied.items()}
    assert final_state(world) == final_state(undisturbed), refused
    assert twice(world) == []


@pytest.mark.parametrize("name", ["killed, then success", "several nodes"])
async def test_a_refused_create_and_an_operator_that_is_killed_do_not_change_the_end(name: str) -> None:
    life = LIVES[name]
    expected = final_state(await live(life))
    refusals = random.Random(name)
    denied = {child: refusals.choice(denials_of(kind)) for child, kind in creates(await live(life))}
    refused = await live(life, denied=denied)
    for number in range(1, len(refused.mortal.writes) + 1):
        world = await live(life, CrashPoint(number, refusals.choice(list(Moment))), denied)
        assert (final_state(world), twice(world)) == (expected, []), f"killed at write {number}"


def twice(world: MortalWorld) -> list[str]:
    """What was created twice, and whether two attempts ever trained at the same time."""
    several = ["two attempts"] if world.mortal.most_attempts > 1 else []
    return several + [what for what, times in world.mortal.created.items() if times > 1]
