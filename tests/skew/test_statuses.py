"""Operators of neighbouring releases take over a job from each other after every turn of its life: nothing is lost.

A release reads the status that another one wrote, and writes it whole: the fields that it does not know are gone then.
The operator that had written them must have them again when it takes over.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from sftjob_contract.names import KIND
from sftjob_operator.controller import SETTLE_SECONDS
from sftjob_operator.reconcile import awaits_cleanup, is_finished
from support.fakes.crash_points import TURNS, Act, MortalWorld, final_state, live
from support.fakes.job_lives import KEY, LIVES
from support.stacks.paths import missing_paths
from support.stacks.previous import TAKE_OVER, Previous


def handed_over(take_over: Callable[[Any], Any], lost: list[str], then: Act | None) -> Act:
    """A turn before which another operator wrote the job's status, and this one took over again.

    No release writes the status of a job that has ended and awaits no cleanup. A write that nobody waits for is due
    after a moment.
    """

    async def act(world: MortalWorld) -> None:
        before = world.cluster.objects[KIND, *KEY]
        if before.get("status") and (not is_finished(before) or awaits_cleanup(before)):
            world.cluster.store({**before, "status": take_over(before)}, "MODIFIED")
            await world.restart_operator()
            await world.pass_time(SETTLE_SECONDS)
            lost.extend(missing_paths(before["status"], world.status(KEY)))
        if then is not None:
            await then(world)

    return act


@pytest.mark.parametrize("name", [name for name, life in LIVES.items() if life.job.spec["method"] != "dance"])
async def test_a_job_that_goes_back_and_forth_ends_as_one_that_does_not(previous: Previous, name: str) -> None:
    life = LIVES[name]
    undisturbed = final_state(await live(life))
    lost: list[str] = []
    with previous.asked(TAKE_OVER) as take_over:
        acts: Mapping[int, Act] = {turn: handed_over(take_over, lost, life.acts.get(turn)) for turn in range(TURNS)}
        world = await live(replace(life, acts=acts))
    assert lost == []
    assert final_state(world) == undisturbed
