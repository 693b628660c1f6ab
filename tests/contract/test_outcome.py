"""The termination message: whatever happened, it fits into what a kubelet keeps."""

import json

from hypothesis import given
from hypothesis import strategies as st

from sftjob_contract.codec import from_json
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import TERMINATION_MESSAGE_LIMIT_BYTES, Stage
from sftjob_contract.reasons import REASON_BY_EXIT_CODE, Reason
from sftjob_contract.reports.outcome import OUTCOME_VERSION, Outcome, Output, termination_message
from sftjob_contract.reports.progress import (
    HISTORY_LIMIT,
    PROGRESS_VERSION,
    Activity,
    Checkpoint,
    HistoryPoint,
    Progress,
    SkippedCheckpoint,
)


def a_progress(*, points: int = 0, checkpoints: int = 0, skipped: int = 0) -> Progress:
    return Progress(
        version=PROGRESS_VERSION,
        attempt=2,
        activity=Activity.FINISHED,
        time="2026-01-01T00:00:00Z",
        step=300,
        max_steps=300,
        resumed_from_step=100,
        tokens=123456,
        loss=1.25,
        checkpoints=tuple(
            Checkpoint(step=n, path=f"checkpoints/checkpoint-{n}", bytes=10**9, time="2026-01-01T00:00:00Z")
            for n in range(checkpoints)
        ),
        skipped_checkpoints=tuple(
            SkippedCheckpoint(path=f"checkpoints/checkpoint-{n}", why="w" * 500) for n in range(skipped)
        ),
        history=tuple(HistoryPoint(step=10 * n, loss=2.3456, eval_loss=2.4567) for n in range(points)),
    )


def an_outcome(progress: Progress | None, message: str | None = None) -> Outcome:
    return Outcome(
        version=OUTCOME_VERSION,
        stage=Stage.TRAIN,
        exit_code=ExitCode.DONE,
        message=message,
        progress=progress,
        output=Output(path="output/model", metrics={"evalLoss": 1.5}),
        libraries={"torch": "2.13.0"},
    )


def test_a_usual_outcome_is_told_whole() -> None:
    outcome = an_outcome(a_progress(points=HISTORY_LIMIT // 2, checkpoints=3))
    assert from_json(Outcome, termination_message(outcome), ignore_unknown=False) == outcome


def test_history_gives_way_before_checkpoints_and_metrics() -> None:
    outcome = an_outcome(a_progress(points=HISTORY_LIMIT, checkpoints=20))
    told = from_json(Outcome, termination_message(outcome), ignore_unknown=False)
    assert told.progress is not None
    assert len(told.progress.history) < HISTORY_LIMIT
    assert len(told.progress.checkpoints) == 20
    assert told.output == outcome.output


@given(
    points=st.integers(0, HISTORY_LIMIT),
    checkpoints=st.integers(0, 100),
    skipped=st.integers(0, 20),
    message=st.none() | st.text(max_size=6000),
)
def test_every_outcome_fits_and_keeps_its_verdict(
    points: int, checkpoints: int, skipped: int, message: str | None
) -> None:
    text = termination_message(an_outcome(a_progress(points=points, checkpoints=checkpoints, skipped=skipped), message))
    assert len(text.encode()) <= TERMINATION_MESSAGE_LIMIT_BYTES
    told = from_json(Outcome, text, ignore_unknown=False)
    assert (told.stage, told.exit_code) == (Stage.TRAIN, ExitCode.DONE)
    assert told.output is not None


def test_a_long_sentence_in_any_script_fits() -> None:
    text = termination_message(an_outcome(None, "\N{SNOWMAN}" * 5000))
    assert len(text.encode()) <= TERMINATION_MESSAGE_LIMIT_BYTES
    assert json.loads(text)["message"].startswith("\N{SNOWMAN}")


def test_every_failing_exit_code_has_a_reason_of_last_resort() -> None:
    assert set(REASON_BY_EXIT_CODE) == set(ExitCode) - {ExitCode.DONE}
    assert all(isinstance(reason, Reason) for reason in REASON_BY_EXIT_CODE.values())
