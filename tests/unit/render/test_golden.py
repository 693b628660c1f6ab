"""A job in, the objects out, compared whole."""

from pathlib import Path

import pytest

from sftjob_contract.names import Stage
from sftjob_operator.api import parse_job
from sftjob_operator.render import RenderSettings, config_map, pod, volume_claim
from support.golden import check_golden, load_documents

GOLDEN = Path(__file__).parent / "golden"
REPORTING = RenderSettings(
    trainer_image="registry.example.com/sftjob-trainer:1.0",
    progress_url="https://sftjob-operator.sftjob-system.svc:8443",
    progress_ca="-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
)
SILENT = RenderSettings(trainer_image="sftjob-trainer:cpu", progress_url=None, progress_ca=None)
CASES = {
    "lora-with-defaults": REPORTING,
    "qlora-from-a-private-hub-model": REPORTING,
    "full-on-a-gpu-from-claims": REPORTING,
    "cpu-without-reporting": SILENT,
}


@pytest.mark.parametrize("case", CASES)
def test_rendered_objects(case: str) -> None:
    (body,) = load_documents(GOLDEN / case / "in.yaml")
    job, settings = parse_job(body), CASES[case]
    rendered = [
        volume_claim(job),
        config_map(job, settings),
        pod(job, Stage.PREPARE, 1, settings),
        pod(job, Stage.TRAIN, 2, settings),
    ]
    check_golden(GOLDEN / case / "out.yaml", rendered)


def test_no_case_is_forgotten() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == set(CASES)
