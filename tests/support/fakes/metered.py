"""A job in memory that trains, and what a scrape tells of it."""

from typing import Any, Final

from prometheus_client import CollectorRegistry

from sftjob_contract.names import Stage
from sftjob_contract.reports.progress import Checkpoint, Progress
from sftjob_operator.metrics.jobs import JobMetrics
from support.checks.scrapes import Scrape, scrape
from support.fakes.fake_cluster import World, an_outcome, ended, moment, running
from support.fakes.progress import a_progress
from support.jobs.builders import a_job

KEY: Final = ("team", "demo")


def registry(world: World, limit: int = 200) -> CollectorRegistry:
    """The metrics about the jobs of `world`."""
    found = CollectorRegistry()
    found.register(JobMetrics(world.controller.jobs, world.clock.now, limit))
    return found


def scraped(world: World, limit: int = 200) -> Scrape:
    """What they tell now."""
    return scrape(registry(world, limit))


def a_report(step: int, attempt: int = 1, **parts: Any) -> Progress:
    """A trainer at this step of 100, with a checkpoint at step 40."""
    checkpoint = Checkpoint(step=40, path="checkpoints/checkpoint-40", bytes=1, time=moment(80))
    return a_progress(step, attempt, tokens=step * 1000, checkpoints=(checkpoint,), **parts)


async def trained(world: World) -> None:
    """A job that prepared from 10 to 40 and trains from 60 on; its first report arrives at 90."""
    await world.apply(a_job())
    world.clock.advance(10)
    await world.pod("demo-prepare-1", running(10))
    world.clock.advance(30)
    prepared = ended(0, an_outcome(Stage.PREPARE), seconds=40)
    prepared["containerStatuses"][0]["state"]["terminated"]["startedAt"] = moment(10)
    await world.pod("demo-prepare-1", prepared)
    world.clock.advance(20)
    await world.pod("demo-train-1", running(60))
    world.clock.advance(30)
    report = a_report(
        50,
        loss=1.5,
        eval_loss=1.25,
        tokens_per_second=4000.0,
        eta_seconds=70,
        mfu=0.4,
        loading_seconds=12.0,
        evaluating_seconds=3.0,
        saving_seconds=2.0,
    )
    world.controller.report(KEY, report)
    await world.settle()
