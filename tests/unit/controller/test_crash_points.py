"""The operator is killed before and after every single write of a whole life; another one ends it the same."""

import pytest

from support.crash_points import CrashPoint, Moment, MortalWorld, final_state, live
from support.lives import KEY, LIVES


@pytest.mark.parametrize("name", LIVES)
async def test_whenever_the_operator_is_killed_the_end_is_the_same(name: str) -> None:
    life = LIVES[name]
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


def twice(world: MortalWorld) -> list[str]:
    """What was created twice, and whether two attempts ever trained at the same time."""
    several = ["two attempts"] if world.mortal.most_attempts > 1 else []
    return several + [what for what, times in world.mortal.created.items() if times > 1]
