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


def end_of(bed: Bed, job: str, namespace: str) -> str:
    """The phase in which a new job ends."""
    bed.apply(bed.a_command(job, DONE, namespace=namespace))
    return str(bed.end(job, namespace)["phase"])


def test_a_namespace_that_is_missing_or_deleted_stops_no_other(bed: Bed, late: str) -> None:
    listed = {"namespaces": [*bed.release.values["namespaces"], late]}
    bed.release.upgrade(**listed)
    assert end_of(bed, "beside-a-missing-one", bed.second) == "Succeeded"

    make_namespaces(bed, **{late: "restricted"})
    bed.release.upgrade(**listed)
    assert end_of(bed, "at-home", late) == "Succeeded"

    bed.kubectl()("delete", "namespace", late, timeout=LONG_SECONDS)
    bed.release.restart()
    assert end_of(bed, "beside-a-deleted-one", bed.second) == "Succeeded"
