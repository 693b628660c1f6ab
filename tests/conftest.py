"""What holds for every test."""

import gc
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from support.helm import Helm, running_helm
from support.rbac import Grant, grants

# Test processes run side by side: a thread for each core in each of them would spend its time waiting for the others.
os.environ.setdefault("OMP_NUM_THREADS", "1")

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
