"""A status is bounded, readable and never refused for its size."""

import pytest
from pydantic import ValidationError

from sftjob_operator.api import (
    ATTEMPTS_LIMIT,
    AttemptStatus,
    Condition,
    ConditionStatus,
    ConditionType,
    HistoryPointStatus,
    ProgressStatus,
    SFTJobStatus,
    set_condition,
    to_dict,
)

EARLY, LATE = "2026-03-01T12:00:00Z", "2026-03-01T13:00:00Z"


def condition(kind: ConditionType, status: ConditionStatus, reason: str = "Waiting", message: str = "") -> Condition:
    return Condition(type=kind, status=status, reason=reason, message=message, last_transition_time=EARLY)


def test_an_empty_status_says_nothing_about_the_unknown() -> None:
    assert to_dict(SFTJobStatus()) == {
        "conditions": [],
        "history": [],
        "checkpoints": [],
        "attempts": [],
        "adjustments": [],
    }


def test_a_list_keeps_its_newest_items() -> None:
    attempts = [AttemptStatus(stage="train", number=n, pod=f"demo-train-{n}") for n in range(1, ATTEMPTS_LIMIT + 10)]
    kept = SFTJobStatus(attempts=attempts).attempts
    assert len(kept) == ATTEMPTS_LIMIT
    assert kept[-1].number == ATTEMPTS_LIMIT + 9


def test_a_long_message_is_cut_where_it_says_so() -> None:
    message = condition(ConditionType.SUCCEEDED, ConditionStatus.FALSE, message="x" * 5000).message
    assert len(message) == 1024
    assert message.endswith("x...")


def test_measures_keep_six_significant_digits() -> None:
    point = HistoryPointStatus(step=1, loss=2.3456789012, eval_loss=0.000123456789)
    assert to_dict(point) == {"step": 1, "loss": 2.34568, "evalLoss": 0.000123457}


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_what_json_can_not_carry_is_refused(loss: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        ProgressStatus(step=1, max_steps=2, percent=50, loss=loss)


def test_models_are_immutable() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        SFTJobStatus().phase = None  # type: ignore[misc]  # the very thing under test


class TestSetCondition:
    def test_a_new_type_goes_to_the_end_with_the_present_time(self) -> None:
        first = condition(ConditionType.PREPARED, ConditionStatus.UNKNOWN)
        result = set_condition([first], condition(ConditionType.RUNNING, ConditionStatus.TRUE), LATE)
        assert [(c.type, c.last_transition_time) for c in result] == [("Prepared", EARLY), ("Running", LATE)]

    def test_a_changed_status_moves_the_time_and_keeps_the_place(self) -> None:
        before = (
            condition(ConditionType.PREPARED, ConditionStatus.UNKNOWN),
            condition(ConditionType.RUNNING, ConditionStatus.FALSE),
        )
        result = set_condition(before, condition(ConditionType.PREPARED, ConditionStatus.TRUE, "Prepared"), LATE)
        assert [(c.type, c.status, c.last_transition_time) for c in result] == [
            ("Prepared", "True", LATE),
            ("Running", "False", EARLY),
        ]

    def test_another_reason_alone_keeps_the_time(self) -> None:
        before = (condition(ConditionType.RUNNING, ConditionStatus.FALSE, "Waiting"),)
        (result,) = set_condition(before, condition(ConditionType.RUNNING, ConditionStatus.FALSE, "BackingOff"), LATE)
        assert (result.reason, result.last_transition_time) == ("BackingOff", EARLY)
        assert before[0].reason == "Waiting"
