"""A job in, the objects out, compared whole."""

from pathlib import Path

import pytest

from sftjob_operator.api import parse_job
from support.checks.golden import check_golden, load_documents
from support.checks.pod_security import violations
from support.checks.rendering import (
    REPORTING,
    SCHEMA_VERSIONS,
    SILENT,
    check_published_schema,
    pods_among,
    render_all,
)

GOLDEN = Path(__file__).parent / "golden"
CASES = {
    "lora-with-defaults": REPORTING,
    "qlora-from-a-private-hub-model": REPORTING,
    "full-on-a-gpu-from-claims": REPORTING,
    "cpu-without-reporting": SILENT,
    "two-nodes-in-a-queue": REPORTING,
    "stores-and-trackers-on-a-claim-that-was-there": REPORTING,
    "published-by-a-stage": REPORTING,
    "two-nodes-with-an-image-of-ones-own": REPORTING,
}


@pytest.mark.parametrize("case", CASES)
def test_rendered_objects(case: str) -> None:
    (body,) = load_documents(GOLDEN / case / "in.yaml")
    check_golden(GOLDEN / case / "out.yaml", render_all(parse_job(body), CASES[case], attempt=2))


def test_no_case_is_forgotten() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == set(CASES)


@pytest.mark.parametrize("version", SCHEMA_VERSIONS)
@pytest.mark.parametrize("case", CASES)
def test_every_object_fits_the_published_schema(case: str, version: str) -> None:
    for document in load_documents(GOLDEN / case / "out.yaml"):
        check_published_schema(document, version)


@pytest.mark.parametrize("case", CASES)
def test_every_pod_meets_the_restricted_standard(case: str) -> None:
    found = pods_among(load_documents(GOLDEN / case / "out.yaml"))
    assert found
    assert [line for document in found for line in violations(document)] == []
