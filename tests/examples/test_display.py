import io
from typing import Any

import pytest
from rich.console import Console

from examples.quickstart.display import Screen, curve, panel, status_table, summary
from sftjob_dev.cluster import Table


def a_job(phase: str | None, **progress: Any) -> dict[str, Any]:
    status: dict[str, Any] = {"phase": phase} if phase else {}
    if progress:
        status["progress"] = progress
    return {"metadata": {"name": "quickstart"}, "status": status}


RUNNING = a_job(
    "Running", step=40, maxSteps=400, percent=10, loss=5.31, evalLoss=6.66, tokensPerSecond=4321.5, eta="1m2s"
)


@pytest.mark.parametrize(
    ("job", "line"),
    [
        (a_job(None), "quickstart  Pending"),
        (a_job("Preparing"), "quickstart  Preparing"),
        (a_job("Running", step=0, maxSteps=400, percent=0), "quickstart  Running  step 0/400 (0%)"),
        (
            RUNNING,
            "quickstart  Running  step 40/400 (10%)  loss 5.310  evalLoss 6.660  tokens/s 4,322  ETA 1m2s",
        ),
    ],
)
def test_a_job_in_one_line(job: dict[str, Any], line: str) -> None:
    assert summary(job) == line


def test_away_from_a_terminal_each_change_is_one_line_and_no_change_is_none() -> None:
    output = io.StringIO()
    with Screen(Console(file=output, width=40)) as screen:
        for job in (a_job("Pending"), a_job("Pending"), RUNNING, RUNNING):
            screen.show(job)
    assert output.getvalue().splitlines() == [summary(a_job("Pending")), summary(RUNNING)]


def test_on_a_terminal_the_last_state_stays() -> None:
    output = io.StringIO()
    with Screen(Console(file=output, force_terminal=True, width=100)) as screen:
        screen.show(a_job("Pending"))
        screen.show(RUNNING)
    last = output.getvalue().rpartition("quickstart")[2]
    for text in ("Running", "40/400", "5.310", "4,322", "1m2s"):
        assert text in last


def test_a_job_without_a_status_has_a_panel_too() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(panel({"metadata": {"name": "quickstart"}}))
    assert "Pending" in console.file.getvalue()  # type: ignore[attr-defined] -- a StringIO


def test_the_curve_shows_both_losses_and_the_last_step() -> None:
    history = [{"step": 0, "evalLoss": 6.6}, {"step": 100, "loss": 5.0}, {"step": 200, "loss": 4.0, "evalLoss": 4.2}]
    drawn = curve({"metadata": {"name": "quickstart"}, "status": {"history": history}})
    assert "quickstart: loss by step" in drawn
    assert drawn.count("o") >= 3, "one mark per evaluation and one in the legend"
    assert "evalLoss" in drawn
    assert drawn.splitlines()[-1].split()[-1] == "200"
    assert "\x1b" not in drawn


def test_the_status_table_is_the_servers() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(status_table(Table(("NAME", "PHASE"), (("quickstart", "Running"), ("other", "")))))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined] -- a StringIO
    assert [line.split() for line in lines] == [["NAME", "PHASE"], ["quickstart", "Running"], ["other"]]
