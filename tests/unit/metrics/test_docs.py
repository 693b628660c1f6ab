"""The page about metrics is about those that there are."""

import re
from pathlib import Path

from sftjob_operator.metrics.goodput import TimeUse
from sftjob_operator.metrics.jobs import JobMetrics
from sftjob_operator.metrics.operator import FailureCause, OperatorMetrics
from support.checks.scrapes import scrape
from support.fakes.fake_cluster import World

PAGE = (Path(__file__).parents[3] / "docs" / "observability.md").read_text(encoding="utf-8")
ENTRY = Path(__file__).parents[3] / "operator" / "src" / "sftjob_operator" / "__main__.py"


def test_every_metric_is_in_a_table_and_nothing_else_is() -> None:
    world, metrics = World(), OperatorMetrics()
    metrics.registry.register(JobMetrics(world.controller.jobs, world.clock.now, 200))
    told = {family.name: family.type for family in scrape(metrics.registry).families if "_created" not in family.name}
    names = {f"{name}_total" if kind == "counter" else name for name, kind in told.items()}
    read = set(re.findall(r'metrics\.read\(\s*"(\w+)"', ENTRY.read_text(encoding="utf-8")))
    rows = set(re.findall(r"^\| `(sftjob_\w+)`", PAGE, re.MULTILINE))
    assert rows == {name for name in names | read if name.startswith("sftjob_")}


def test_every_use_of_time_is_in_the_table() -> None:
    rows = re.findall(r"^\| `([a-z]+)` \|", PAGE, re.MULTILINE)
    assert rows == list(TimeUse)


def test_every_cause_of_an_error_is_told() -> None:
    assert all(f"`{cause}`" in PAGE for cause in FailureCause)
