"""The dashboard: Grafana takes it, and each of its queries gives something on a scrape."""

import asyncio
import json
import math
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from sftjob_contract.names import KIND, Stage
from sftjob_contract.reasons import Reason
from sftjob_operator.effects.cluster import UnavailableError
from sftjob_operator.metrics.jobs import JobMetrics
from support.checks.dashboards import queries, substituted
from support.checks.promql import Recording, Value, evaluated, label_names, parsed, selectors
from support.checks.scrapes import scrape
from support.fakes.fake_cluster import World, an_outcome, ended
from support.fakes.metered import trained
from support.jobs.builders import a_job
from tools.dashboard import DASHBOARD, dashboard

QUERIES = queries(dashboard())


@pytest.fixture(scope="module")
def recording() -> Recording:
    return asyncio.run(recorded())


async def recorded() -> Recording:
    """A job that trains, one that failed, one that is suspended; requests and failures before and after."""
    world = World()
    registry = world.metrics.registry
    registry.register(JobMetrics(world.controller.jobs, world.clock.now, 200))
    world.metrics.read("sftjob_workqueue_depth", "Jobs that wait for a worker.", world.controller.queue.__len__)
    world.metrics.read("sftjob_watch_age_seconds", "Age.", lambda: 12.0)
    requests = world.metrics._requests.labels("create", "pods", "201")
    world.metrics.reconciled(0.004)
    before = scrape(registry)
    world.cluster.fail("patch", KIND, UnavailableError("away"))
    await world.apply(a_job("waits").set("suspend", value=True))
    await trained(world)
    await world.apply(a_job("fails"))
    refused = an_outcome(Stage.PREPARE, exit_code=65, reason=Reason.DATA_INVALID, message="Row 3 is empty.")
    await world.pod("fails-prepare-1", ended(65, refused))
    requests.inc(30)
    return Recording(before=before, after=scrape(registry), seconds=60, time=world.clock.now().timestamp())


def test_the_file_is_what_the_tool_writes() -> None:
    assert json.loads(DASHBOARD.read_text(encoding="utf-8")) == dashboard()


def test_grafana_knows_every_field_of_it() -> None:
    register_default_plugins()
    read = Dashboard.from_json(dashboard())
    written = json.loads(JSONEncoder(sort_keys=True).encode(read))
    assert list(lost(dashboard(), written)) == []


def lost(given: Any, read: Any, path: str = "") -> Any:
    """Where something that was given is not in what was read: Grafana's model has no such field, or another type."""
    if isinstance(given, dict) and isinstance(read, dict):
        for name, value in given.items():
            yield from lost(value, read.get(name), f"{path}.{name}")
    elif isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        for number, (one, other) in enumerate(zip(given, read, strict=True)):
            yield from lost(one, other, f"{path}[{number}]")
    elif given != read:
        yield path


def test_its_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert all(x < 24 for x, _ in taken)


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_names_series_and_labels_that_a_scrape_has(query: str, recording: Recording) -> None:
    for selector in selectors(parsed(substituted(query))):
        series = recording.after.series(selector.name)
        assert series, f"{selector.name} is not scraped"
        assert {matcher.name for matcher in selector.matchers.matchers} <= label_names(series)


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_gives_something(query: str, recording: Recording) -> None:
    value = evaluated(substituted(query), recording)
    assert isinstance(value, dict)
    assert value, "no series"
    assert not any(map(math.isnan, value.values())), "no number"


@pytest.mark.parametrize("legend", sorted({legend for _, legend in queries(dashboard(), legends=True)}))
def test_a_legend_names_labels_that_its_series_have(legend: str, recording: Recording) -> None:
    wanted = {part.split("}}")[0] for part in legend.split("{{")[1:]}
    for query, told in queries(dashboard(), legends=True):
        if told == legend:
            value = evaluated(substituted(query), recording)
            assert isinstance(value, dict)
            assert all(wanted <= {name for name, _ in labels} for labels in value), query


@pytest.mark.parametrize(
    ("panel", "expected"),
    [
        ("Jobs by phase", {"Failed": 1, "Running": 1, "Suspended": 1}),
        ("Why jobs failed", {"DataInvalid": 1}),
        ("Progress", {"demo": 0.5}),
        ("Time left", {"demo": 70}),
        ("Age of the newest checkpoint", {"demo": 10}),
        ("Since the last report", {"demo": 0}),
        ("API requests", {"create": 0.5}),
        ("Age of the older watch", {"": 12}),
    ],
)
def test_a_panel_shows_what_was_going_on(panel: str, expected: dict[str, float], recording: Recording) -> None:
    (found,) = (each for each in dashboard()["panels"] if each["title"] == panel)
    assert named(evaluated(substituted(found["targets"][0]["expr"]), recording)) == expected


def test_goodput_is_the_share_of_training_in_the_time_that_ran(recording: Recording) -> None:
    (query,) = (each for each in QUERIES if "use!=" in each)
    assert named(evaluated(substituted(query), recording))["demo"] == pytest.approx(13 / 60)


def named(value: Value) -> dict[str, float]:
    """Values by the one label that tells them apart here."""
    assert isinstance(value, dict)
    which = ("job_name", "phase", "reason", "verb")
    return {next((dict(labels)[name] for name in which if name in dict(labels)), ""): x for labels, x in value.items()}


def test_a_query_about_what_is_not_scraped_gives_nothing(recording: Recording) -> None:
    assert evaluated("sum(sftjob_job_steps)", recording) == {}
