"""Golden messages. Operator and trainer each have tests that read these same files; here: the contract's own view."""

import json
from pathlib import Path

import pytest

from sftjob_contract.codec import decode, encode
from sftjob_contract.reports.outcome import Outcome
from sftjob_contract.reports.progress import Progress
from sftjob_contract.run.config import RunConfig

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("run-config", RunConfig),
        ("progress", Progress),
        ("outcome-prepared", Outcome),
        ("outcome-trained", Outcome),
        ("outcome-data-invalid", Outcome),
    ],
)
def test_a_golden_message_is_understood_whole_and_written_back_the_same(name: str, cls: type[object]) -> None:
    data = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    assert encode(decode(cls, data, ignore_unknown=False)) == data
