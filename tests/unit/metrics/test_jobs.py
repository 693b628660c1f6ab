"""The metrics about jobs: what a scrape tells of each, in which words, and of how many."""

import re

import pytest

from sftjob_contract.names import KIND, Stage
from sftjob_contract.reasons import Reason
from sftjob_operator.metrics.jobs import JobMetrics
from sftjob_operator.reconcile.snapshot import SETTLE_SECONDS
from support.checks.scrapes import Scrape, scrape
from support.fakes.fake_cluster import START, World, an_outcome, ended, moment, running, unschedulable
from support.fakes.metered import KEY, a_report, registry, scraped, trained
from support.jobs.builders import a_job


async def test_a_running_job_is_told_as_its_status_has_it() -> None:
    world = World()
    await trained(world)
    assert scraped(world).about("demo") == {
        "sftjob_job_info[Running, lora]": 1,
        "sftjob_job_step": 50,
        "sftjob_job_max_steps": 100,
        "sftjob_job_loss": 1.5,
        "sftjob_job_eval_loss": 1.25,
        "sftjob_job_tokens_per_second": 4000,
        "sftjob_job_mfu_ratio": 0.4,
        "sftjob_job_eta_seconds": 70,
        "sftjob_job_attempts[prepare]": 1,
        "sftjob_job_attempts[train]": 1,
        "sftjob_job_checkpoint_timestamp_seconds": START.timestamp() + 80,
        "sftjob_job_last_report_timestamp_seconds": START.timestamp() + 90,
        "sftjob_job_time_seconds[queued]": 30,
        "sftjob_job_time_seconds[preparing]": 30,
        "sftjob_job_time_seconds[loading]": 12,
        "sftjob_job_time_seconds[training]": 13,
        "sftjob_job_time_seconds[evaluating]": 3,
        "sftjob_job_time_seconds[saving]": 2,
        "sftjob_job_time_seconds[publishing]": 0,
        "sftjob_job_time_seconds[lost]": 0,
    }


async def test_a_job_that_has_ended_keeps_its_figures_and_its_time_stands_still() -> None:
    world = World()
    await trained(world)
    last = a_report(100, loss=1.0, loading_seconds=12.0, evaluating_seconds=3.0, saving_seconds=2.0)
    done = ended(0, an_outcome(Stage.TRAIN, progress=last), seconds=120)
    done["containerStatuses"][0]["state"]["terminated"]["startedAt"] = moment(60)
    world.clock.advance(30)
    await world.pod("demo-train-1", done)
    told = scraped(world).about("demo")
    assert told["sftjob_job_info[Succeeded, lora]"] == 1
    assert (told["sftjob_job_step"], told["sftjob_job_loss"]) == (100, 1.0)
    assert told["sftjob_job_time_seconds[training]"] == 43
    assert "sftjob_job_eta_seconds" not in told
    await world.pass_time(5000)
    assert scraped(world).about("demo") == told
    await world.restart_operator()
    assert scraped(world).about("demo") == told


async def test_a_deleted_job_leaves_nothing_behind() -> None:
    world = World()
    await trained(world)
    world.cluster.remove(KIND, *KEY)
    await world.settle()
    assert scraped(world).about("demo") == {}
    assert scraped(world).series("sftjob_jobs") == []


async def test_a_new_job_is_pending_and_queued() -> None:
    world = World()
    world.controller.job_changed(a_job().body())
    world.clock.advance(5)
    told = scraped(world)
    assert told.value("sftjob_jobs", phase="Pending") == 1
    assert told.value("sftjob_job_info", job_name="demo", phase="Pending", method="") == 1
    assert told.value("sftjob_job_time_seconds", job_name="demo", use="queued") == 5


async def test_jobs_are_counted_by_phase_and_reason() -> None:
    world = World()
    for name in ("waits", "trains", "fails", "fails-too"):
        await world.apply(a_job(name))
        await world.pod(f"{name}-prepare-1", ended(0, an_outcome(Stage.PREPARE)))
    await world.pod("waits-train-1", unschedulable("0/1 nodes are available"))
    await world.pass_time(SETTLE_SECONDS)
    await world.pod("trains-train-1", running())
    for name in ("fails", "fails-too"):
        diverged = an_outcome(Stage.TRAIN, exit_code=77, reason=Reason.DIVERGED, message="Loss is NaN.")
        await world.pod(f"{name}-train-1", ended(77, diverged))
    await world.apply(a_job("prepares"))
    await world.pod("prepares-prepare-1", running())
    counted = {
        (sample.labels["phase"], sample.labels["reason"]): sample.value
        for sample in scraped(world, limit=0).series("sftjob_jobs")
    }
    assert counted == {
        ("Failed", "Diverged"): 2,
        ("Preparing", "Preparing"): 1,
        ("Queued", "Unschedulable"): 1,
        ("Running", "Training"): 1,
    }


async def test_a_status_of_another_version_is_shown_as_far_as_it_can_be_read() -> None:
    world = World()
    body = a_job().body() | {"status": {"phase": "Running", "progress": {"step": "many"}}}
    world.controller.job_changed(body)
    assert "sftjob_job_info[, Running]" in scraped(world).about("demo")
    assert "sftjob_job_step" not in scraped(world).about("demo")
    assert scraped(world).value("sftjob_jobs", phase="Running") == 1
    attempts = {"phase": "Running", "attempts": [{"stage": "train", "number": "first"}]}
    world.controller.job_changed(a_job("other").body() | {"status": attempts})
    assert scraped(world).about("other") == {}
    assert scraped(world).value("sftjob_jobs", phase="Running") == 2


def many_jobs(world: World, jobs: int, finished: int) -> None:
    """Jobs of growing age by their number; those with the highest numbers have ended."""
    for number in range(jobs):
        over = number >= jobs - finished
        succeeded = {"type": "Succeeded", "status": "True" if over else "Unknown", "reason": "R"}
        attempts = [
            {"stage": stage, "number": 1, "pod": "p", "startTime": moment(number)} for stage in ("prepare", "train")
        ]
        progress = {"step": 1, "maxSteps": 2, "percent": 50, "lastReportTime": moment(number)}
        progress |= dict.fromkeys(("loss", "evalLoss", "tokensPerSecond", "mfu", "etaSeconds"), 1)
        body = a_job(f"job-{number:04}").meta(creation_timestamp=moment(number), uid=f"u{number}").body()
        checkpoint = {"step": 1, "uri": "pvc://c/p", "bytes": 1, "time": moment(number)}
        body["status"] = {
            "phase": "Succeeded" if over else "Running",
            "method": "lora",
            "conditions": [succeeded, {"type": "Running", "status": "True", "reason": "Training"}],
            "progress": progress,
            "attempts": attempts,
            "checkpoints": [checkpoint],
        }
        world.controller.job_changed(body)


def told_jobs(told: Scrape) -> list[str]:
    return sorted(sample.labels["job_name"] for sample in told.series("sftjob_job_info"))


def test_the_limit_bounds_the_series_of_a_thousand_jobs() -> None:
    world = World()
    many_jobs(world, 1000, finished=0)
    world.clock.advance(2000)
    told = scraped(world, limit=50)
    series_of_one = len(told.about("job-0999"))
    assert series_of_one == 20, "every series that a job can have"
    assert len(told.samples) == 50 * series_of_one + 2
    assert told.value("sftjob_jobs", phase="Running") == 1000
    assert told.value("sftjob_jobs_left_out") == 950
    assert len(scraped(world, limit=2000).samples) == 1000 * series_of_one + 2


def test_without_series_of_single_jobs_all_are_counted() -> None:
    world = World()
    many_jobs(world, 1000, finished=300)
    told = scraped(world, limit=0)
    assert {sample.name for sample in told.samples} == {"sftjob_jobs", "sftjob_jobs_left_out"}
    assert told.value("sftjob_jobs", phase="Succeeded") == 300


def test_jobs_that_have_not_ended_come_first_and_then_the_youngest() -> None:
    world = World()
    many_jobs(world, 6, finished=3)
    assert told_jobs(scraped(world, limit=2)) == ["job-0001", "job-0002"]
    assert told_jobs(scraped(world, limit=4)) == ["job-0000", "job-0001", "job-0002", "job-0005"]


@pytest.mark.parametrize("open_metrics", [False, True], ids=["text", "openmetrics"])
def test_a_parser_of_the_format_takes_it_and_names_follow_the_conventions(open_metrics: bool) -> None:
    world = World()
    many_jobs(world, 3, finished=1)
    found = registry(world)
    world.metrics.registry.register(JobMetrics(world.controller.jobs, world.clock.now, 200))
    for told in (scrape(found, open_metrics=open_metrics), scrape(world.metrics.registry, open_metrics=open_metrics)):
        names = [family.name for family in told.families]
        assert len(names) == len(set(names))
        for family in told.families:
            assert re.fullmatch(r"(sftjob|process)_[a-z0-9_]+", family.name)
            assert family.documentation.endswith((".", "bytes", "seconds", "descriptors")), family.name
            assert not re.search(r"_(count|sum|bucket|total|age|milliseconds|minutes|percent)$", family.name)
            assert all(re.fullmatch("[a-z_]+", label) for sample in family.samples for label in sample.labels)
