"""The last lines of a run's log."""

from typing import Any

import pytest

from sftjob_contract.reports.outcome import Output
from sftjob_trainer.publish import output_locations
from sftjob_trainer.reporting.summary import summary
from sftjob_trainer.reporting.telemetry import SavedTelemetry

ADAPTER = {
    "initialEvalLoss": 2.34561,
    "evalLoss": 0.5432,
    "trainLoss": 1.2345,
    "trainSeconds": 1200.0,
}


def known(**changes: Any) -> SavedTelemetry:
    usual: dict[str, Any] = {"step": 375, "epoch": 3.0, "tokens": 6_000_000, "loss": 0.51234}
    return SavedTelemetry(**{**usual, **changes})


@pytest.mark.parametrize(
    ("state", "output", "expected"),
    [
        pytest.param(
            known(trainable_parameters=2_359_296, parameters=496_392_064),
            Output(path="output/adapter", metrics=ADAPTER, uploaded=("hf://team/bot",)),
            [
                "trainable params: 2,359,296 || all params: 496,392,064 || trainable%: 0.4753",
                (
                    "final losses: train 0.5123 at the last log, 1.2345 on average; "
                    "evaluation 2.3456 before, 0.5432 after training"
                ),
                "375 steps, 3.00 epochs, 6,000,000 tokens in 1,200.0 s, 5,000.0 tokens per second",
                "output: pvc://bot/output/adapter, hf://team/bot",
            ],
            id="everything",
        ),
        pytest.param(
            known(step=1, epoch=0.25, tokens=8, loss=None),
            Output(path="output/model", metrics={"trainSeconds": 0.0}),
            ["1 steps, 0.25 epochs, 8 tokens in 0.0 s", "output: pvc://bot/output/model"],
            id="nothing held out, a checkpoint of the trainer before",
        ),
    ],
)
def test_the_last_lines_say_what_was_trained_how_well_how_fast_and_where_it_is(
    state: SavedTelemetry, output: Output, expected: list[str]
) -> None:
    assert list(summary(state, output.metrics, output_locations(output, "pvc://bot/"))) == expected
