"""What holds for every test."""

import gc
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from support.checks.rbac import Grant, grants
from support.clients.helm import Helm, running_helm

# Test processes run side by side: a thread for each core in each of them would spend its time waiting for the others.
os.environ.setdefault("OMP_NUM_THREADS", "1")

DEFAULT_TIMEOUT_SECONDS = 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files that take longest first, so that no worker waits at the end for one that began late.

    A file is ordered by its slow tests and their time limits.
    """
    longest: Counter[Path] = Counter()
    for item in items:
        if item.get_closest_marker("slow"):
            limit = item.get_closest_marker("timeout")
            longest[item.path] = max(longest[item.path], limit.args[0] if limit else DEFAULT_TIMEOUT_SECONDS)
    items.sort(key=lambda item: -longest[item.path])


# How long an example takes says something about the machine's other work, not about the code.
settings.register_profile("shared-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared-machine")


@pytest.fixture(scope="module", autouse=True)
def only_what_a_module_makes_is_searched_for_garbage() -> None:
    """Leave modules and caches out of every later collection: a worker that has loaded all libraries has millions of
    objects, and a search through all of them takes over a second each time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def no_finalizers() -> Iterator[None]:
    """For tests that fill the stack: what others left behind could not be finalized there, and they would be blamed."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Helm]:
    """Helm itself, started once."""
    with running_helm(tmp_path_factory.mktemp("helm-home")) as running:
        yield running


@pytest.fixture(scope="session")
def granted(helm: Helm) -> set[Grant]:
    """What the chart lets an operator of the whole cluster do; local stacks are like a release in namespace default."""
    return grants(helm.objects({}, name="sftjob-operator", namespace="default"), "sftjob-operator", "default")
