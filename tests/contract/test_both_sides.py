"""The golden messages again, as the program on each side of the contract writes or reads them."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from sftjob_contract.codec import encode, from_json
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import LABEL_ATTEMPT, LABEL_JOB, LABEL_STAGE
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.outcome import Outcome
from sftjob_contract.reports.progress import Progress
from sftjob_contract.run.config import Precision, RunConfig
from sftjob_operator.api import parse_job, to_dict
from sftjob_operator.reconcile import pod_view
from sftjob_operator.reconcile.reports.status_parts import with_progress
from sftjob_operator.render import run_config
from sftjob_trainer.run.sft_config import sft_arguments

GOLDEN = Path(__file__).parent / "golden"


def golden(name: str) -> Any:
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


def the_job() -> dict[str, Any]:
    job: dict[str, Any] = yaml.safe_load((GOLDEN / "job.yaml").read_text(encoding="utf-8"))
    return job


def test_the_operator_writes_the_run_config() -> None:
    assert encode(run_config(parse_job(the_job()))) == golden("run-config")


def test_the_trainer_reads_the_run_config_and_what_prepare_found(tmp_path: Path) -> None:
    config = from_json(RunConfig, (GOLDEN / "run-config.json").read_bytes(), ignore_unknown=False)
    stats = from_json(Outcome, json.dumps(golden("outcome-prepared")), ignore_unknown=False).prepared
    assert stats is not None
    arguments = sft_arguments(config, stats, output_dir=tmp_path, precision=Precision.FP32)
    assert arguments["max_steps"] == 150
    assert arguments["optim"] == "paged_adamw_8bit"
    assert arguments["lr_scheduler_type"] == "cosine"
    assert arguments["warmup_steps"] == 5


def a_pod(stage: str, outcome: dict[str, Any]) -> dict[str, Any]:
    """A Pod whose container ended with `outcome` as its termination message."""
    return {
        "metadata": {
            "namespace": "team-a",
            "name": f"support-bot-{stage}-1",
            "uid": "7",
            "labels": {LABEL_JOB: "support-bot", LABEL_STAGE: stage, LABEL_ATTEMPT: "1"},
        },
        "status": {
            "phase": "Succeeded" if outcome["exitCode"] == 0 else "Failed",
            "containerStatuses": [
                {
                    "name": "trainer",
                    "state": {"terminated": {"exitCode": outcome["exitCode"], "message": json.dumps(outcome)}},
                }
            ],
        },
    }


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("outcome-prepared", ExitCode.DONE, None),
        ("outcome-trained", ExitCode.DONE, None),
        ("outcome-data-invalid", ExitCode.INVALID, Reason.DATA_INVALID),
    ],
)
def test_the_operator_reads_what_a_container_said_last(name: str, code: ExitCode, reason: Reason | None) -> None:
    view = pod_view(a_pod(golden(name)["stage"], golden(name)))
    assert view.outcome is not None
    assert (view.outcome.exit_code, view.outcome.reason) == (code, reason)
    assert encode(view.outcome) == golden(name)


def test_the_operator_puts_every_number_of_a_report_into_the_status() -> None:
    job = parse_job(the_job())
    progress = from_json(Progress, json.dumps(golden("progress")), ignore_unknown=True)
    status = to_dict(with_progress(job.status, job, progress, datetime(2026, 1, 1, 12, 0, 1, tzinfo=UTC)))
    told = {key: golden("progress")[key] for key in ("step", "maxSteps", "epoch", "loss", "evalLoss", "tokens")}
    assert told.items() <= status["progress"].items()
    assert status["progress"]["percent"] == 40
    assert status["progress"]["eta"] == "5m00s"
    assert status["history"] == golden("progress")["history"]
    assert status["latestCheckpoint"] == status["bestCheckpoint"] == "pvc://support-bot/checkpoints/checkpoint-40"
