"""Bad data ends a job in Prepare, before a GPU is asked for, and the status says which line is wrong."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from support.jobs.small_jobs import a_small_job, condition, phase, reach, sentences, write_rows
from support.stacks.running_stack import Lab


def row_without_the_column(path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": text} for text in sentences(20)]
    rows[16] = {"txt": "a typing error", "id": 16}
    write_rows(path, rows)


def empty_file(path: Path) -> None:
    path.touch()


def not_utf8(path: Path) -> None:
    path.write_bytes(b'{"text": "fine"}\n{"text": "caf\xe9"}\n')


def no_assistant_turn(path: Path) -> None:
    turns = [{"role": "user", "content": "Is anybody there?"}]
    answered = [*turns, {"role": "assistant", "content": "Yes."}]
    write_rows(path, [{"messages": answered}, {"messages": answered}, {"messages": turns}])


CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing-column": (row_without_the_column, "missing-column.jsonl:17"),
    "empty-file": (empty_file, "empty-file.jsonl"),
    "not-utf8": (not_utf8, "not-utf8.jsonl:2"),
    "no-assistant": (no_assistant_turn, "no-assistant.jsonl:3"),
}


@pytest.fixture(scope="module")
def refused(lab: Lab) -> dict[str, dict[str, object]]:
    """Final status of one job for each case; all run at the same time."""
    for name, (write, _) in CASES.items():
        write(lab.input / f"{name}.jsonl")
        lab.apply(a_small_job(name, data=f"{name}.jsonl"))
    return {name: reach(lab.cluster, name, phase("Failed", "Succeeded")) for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_the_job_fails_in_prepare_and_names_file_and_line(refused: dict[str, dict[str, object]], name: str) -> None:
    status = refused[name]
    assert status["phase"] == "Failed"
    prepared, succeeded = condition(status, "Prepared"), condition(status, "Succeeded")
    assert (prepared["status"], succeeded["status"]) == ("False", "False")
    assert succeeded["reason"] == "DataInvalid"
    assert CASES[name][1] in succeeded["message"]


@pytest.mark.parametrize("name", CASES)
def test_no_train_pod_was_ever_created_and_nothing_was_retried(
    refused: dict[str, dict[str, object]], lab: Lab, name: str
) -> None:
    assert refused[name]["phase"] == "Failed"
    pods = lab.kubectl.json("get", "pods", "-l", f"sftjob.dev/job={name}")["items"]
    assert [pod["metadata"]["name"] for pod in pods] == [f"{name}-prepare-1"]
    assert f"{name}-train" not in json.dumps(lab.kubectl.json("get", "events"))
