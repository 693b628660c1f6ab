"""The chart's `namespaces`: one that is missing, or is deleted, stops nobody else."""

from collections.abc import Iterator

import pytest

from support.any_cluster.bed import Bed
from support.any_cluster.server import LONG_SECONDS
from support.any_cluster.setup import make_namespaces

DONE = "print('done')"


@pytest.fixture
def late(bed: Bed) -> Iterator[str]:
    """A namespace that the release names and that is not there yet."""
    yield f"{bed.prefix}-late"
    bed.release.upgrade()


def succeeds(bed: Bed, job: str, namespace: str) -> None:
    bed.apply(bed.a_command(job, DONE, namespace=namespace))
    assert bed.end(job, namespace)["phase"] == "Succeeded"


def test_a_namespace_that_is_missing_or_deleted_stops_no_other(bed: Bed, late: str) -> None:
    listed = {"namespaces": [*bed.release.values["namespaces"], late]}
    bed.release.upgrade(**listed)
    succeeds(bed, "beside-a-missing-one", bed.second)

    make_namespaces(bed, **{late: "restricted"})
    bed.release.upgrade(**listed)
    succeeds(bed, "at-home", late)

    bed.kubectl()("delete", "namespace", late, timeout=LONG_SECONDS)
    bed.release.restart()
    succeeds(bed, "beside-a-deleted-one", bed.second)
