"""What the operator tells a Prometheus, and its log, while real jobs run."""

import asyncio
import json
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest

from support.checks.dashboards import queries, substituted
from support.checks.promql import Recording, evaluated, label_names, parsed, selectors
from support.checks.scrapes import OPENMETRICS, Scrape
from support.clients.wait import eventually
from support.faults import faulty, slow
from support.jobs.small_jobs import Status, a_small_job, phase, reach
from support.stacks.running_stack import Lab
from tools.dashboard import dashboard

STEPS = 40
ONLY_ON_A_GPU = "sftjob_job_mfu_ratio"
"""The peak of a CPU is not known, so neither is the share of it that is used."""


def scraped(lab: Lab, accept: str = "text/plain") -> Scrape:
    request = urllib.request.Request(lab.stack.metrics_url, headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return Scrape(answer.read().decode(), open_metrics=accept == OPENMETRICS)


@dataclass(frozen=True)
class Story:
    """One job that succeeded, one that failed, one that is suspended, and one that trained during the scrape."""

    status: Status
    created: str
    recording: Recording


@pytest.fixture(scope="module")
def story(lab: Lab) -> Iterator[Story]:
    before, began = scraped(lab), time.time()
    lab.apply(a_small_job("held").set("suspend", value=True))
    lab.apply(a_small_job("broken", data="nowhere.jsonl"))
    counted = a_small_job("counted").training(max_steps=STEPS).checkpoints(every_steps=20)
    lab.apply(counted.env(**faulty(slow(0.1))))  # times of Pods are whole seconds, of which loading alone may be one
    reach(lab.cluster, "held", phase("Suspended"))
    reach(lab.cluster, "broken", phase("Failed"))
    status = reach(lab.cluster, "counted", phase("Succeeded", "Failed"))
    endless = a_small_job("endless").training(max_steps=100_000).checkpoints(every_steps=20)
    lab.apply(endless.env(**faulty(slow(0.01))))
    reach(lab.cluster, "endless", _is_on_its_way)
    after = _scraped_once_it_trains(lab, "endless")
    recording = Recording(before=before, after=after, seconds=time.time() - began, time=time.time())
    lab.kubectl("delete", "sft", "endless")
    created = lab.kubectl.json("get", "sft", "counted")["metadata"]["creationTimestamp"]
    yield Story(status, created, recording)
    lab.kubectl("delete", "sft", "held", "broken", "counted")


def _scraped_once_it_trains(lab: Lab, job: str) -> Scrape:
    """A status may be read from the API server before the operator has heard that its write was done."""
    scrapes = []

    async def trains() -> bool:
        scrapes.append(scraped(lab))
        return {
            "sftjob_job_info[Running, full]",
            "sftjob_job_eta_seconds",
            "sftjob_job_checkpoint_timestamp_seconds",
        } <= scrapes[-1].about(job).keys()

    asyncio.run(eventually(trains, "the metrics do not tell that the job trains"))
    return scrapes[-1]


def _is_on_its_way(status: Status) -> bool:
    return "etaSeconds" in status.get("progress", {}) and bool(status.get("checkpoints"))


def test_the_values_of_a_finished_job_are_those_of_its_status(story: Story) -> None:
    told, status = story.recording.after.about("counted"), story.status
    assert told["sftjob_job_info[Succeeded, full]"] == 1
    assert told["sftjob_job_step"] == told["sftjob_job_max_steps"] == STEPS == status["progress"]["step"]
    assert told["sftjob_job_loss"] == status["progress"]["loss"]
    assert told["sftjob_job_eval_loss"] == status["progress"]["evalLoss"]
    assert told["sftjob_job_attempts[prepare]"] == told["sftjob_job_attempts[train]"] == 1
    newest = status["checkpoints"][-1]["time"]
    assert told["sftjob_job_checkpoint_timestamp_seconds"] == datetime.fromisoformat(newest).timestamp()


def test_the_time_of_a_finished_job_is_split_without_a_rest(story: Story) -> None:
    series = story.recording.after.series("sftjob_job_time_seconds")
    spent = {each.labels["use"]: each.value for each in series if each.labels["job_name"] == "counted"}
    life = datetime.fromisoformat(story.status["completionTime"]) - datetime.fromisoformat(story.created)
    assert sum(spent.values()) == pytest.approx(life.total_seconds())
    attempts = {attempt["stage"]: attempt for attempt in story.status["attempts"]}
    assert spent["preparing"] == seconds(attempts["prepare"])
    assert spent["loading"] == attempts["train"]["loadingSeconds"] > 0
    assert spent["evaluating"] == attempts["train"]["evaluatingSeconds"] > 0
    assert spent["saving"] == attempts["train"]["savingSeconds"] > 0
    trained = sum(spent[use] for use in ("loading", "training", "evaluating", "saving"))
    assert trained == pytest.approx(seconds(attempts["train"]))
    assert spent["lost"] == 0


def seconds(attempt: dict[str, Any]) -> float:
    life = datetime.fromisoformat(attempt["endTime"]) - datetime.fromisoformat(attempt["startTime"])
    return life.total_seconds()


def test_jobs_are_counted_by_phase(story: Story) -> None:
    told = story.recording.after
    for wanted in ("Succeeded", "Failed", "Suspended", "Running"):
        assert sum(each.value for each in told.series("sftjob_jobs") if each.labels["phase"] == wanted) >= 1, wanted


def test_requests_are_counted_as_the_api_server_answered_them(story: Story) -> None:
    told = story.recording.after
    for verb, resource, code in (
        ("watch", "sftjobs", "200"),
        ("watch", "pods", "200"),
        ("create", "pods", "201"),
        ("patch", "sftjobs/status", "200"),
        ("create", "tokenreviews", "201"),
    ):
        assert (told.value("sftjob_api_requests_total", verb=verb, resource=resource, code=code) or 0) >= 1, verb
    assert (told.value("sftjob_watch_age_seconds") or 0) < 900
    assert (told.value("sftjob_reconcile_duration_seconds_count") or 0) > 10
    assert told.value("sftjob_reconcile_errors_total", cause="fault") == 0


async def test_the_series_of_a_deleted_job_vanish(story: Story, lab: Lab) -> None:
    async def vanished() -> bool:
        return scraped(lab).about("endless") == {}

    assert story.recording.after.about("endless")
    await eventually(vanished, "the deleted job is still told of")


@pytest.mark.parametrize("query", queries(dashboard()))
def test_a_query_of_the_dashboard_gives_something_on_a_real_scrape(query: str, story: Story) -> None:
    told = [*story.recording.after.samples]
    for selector in selectors(parsed(substituted(query))):
        series = [sample for sample in told if sample.name == selector.name]
        assert series or selector.name == ONLY_ON_A_GPU, f"{selector.name} is not scraped"
        assert not series or {matcher.name for matcher in selector.matchers.matchers} <= label_names(series)
    value = evaluated(substituted(query), story.recording)
    assert value or ONLY_ON_A_GPU in query


def test_a_scrape_as_openmetrics_tells_the_same(story: Story, lab: Lab) -> None:
    assert scraped(lab, OPENMETRICS).about("counted") == story.recording.after.about("counted")


def test_log_lines_about_a_job_carry_job_attempt_and_pod(story: Story, lab: Lab) -> None:
    lines = [json.loads(line) for line in lab.stack.operator_log.read_text(encoding="utf-8").splitlines()]
    about = [line for line in lines if line.get("job") == "default/counted"]
    created = next(i for i, line in enumerate(about) if line["msg"].startswith("created Pod"))
    assert story.status["phase"] == "Succeeded"
    assert {(line["attempt"], line["pod"]) for line in about[created:]} == {
        (1, "counted-prepare-1"),
        (1, "counted-train-1"),
    }
    assert about[-1]["msg"] == "phase Succeeded"
    assert about[-1]["pod"] == "counted-train-1"
