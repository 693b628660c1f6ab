"""Tokenizing that is broken off goes on where it was, and tells how far it is."""

import json
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract import layout
from sftjob_contract.run.config import OnInvalidRow, Preprocessing, RowFunction, RunConfig
from sftjob_trainer.process.errors import StageError
from support.trainer.preparing import Workbench

SHARD = 200
ROWS = 2 * SHARD + 40
"""Two whole shards, and a part of a third."""
BREAK = ROWS - 20
"""Row of the third at which an attempt is broken off."""

CODE = """
import pathlib

def preprocess(row):
    if row["number"] == {at} and pathlib.Path({trap!r}).exists():
        raise MemoryError
    with open({log!r}, "a") as log:
        log.write(f"{{row['number']}}\\n")
    return {{"text": row["text"]}}
"""


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sftjob_trainer.tokens.tokenize.SHARD_ROWS", SHARD)


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """Every 100th row is invalid, every 140th equal to an earlier one, one is long."""
    made: list[dict[str, Any]] = [{"number": number, "text": f"open {number}"} for number in range(ROWS)]
    for number in range(0, ROWS, 100):
        made[number]["text"] = 7
    for number in range(140, ROWS, 140):
        made[number]["text"] = "open 1"
    made[123]["text"] = "open " * 99
    return made


def job(bench: Workbench, data: Path) -> RunConfig:
    """A run whose rows go through a function that runs out of memory at row BREAK as long as there is a trap."""
    file = bench.root / "rows.py"
    names = {"trap": str(bench.root / "trap"), "log": str(bench.root / "log"), "at": BREAK}
    file.write_text(CODE.format(**names), encoding="utf-8")
    config = bench.config(data)
    made = Preprocessing(template=None, function=RowFunction(file=str(file), name="preprocess"))
    (part,) = config.dataset.sources
    data_set = replace(
        config.dataset,
        sources=(replace(part, preprocessing=made),),
        deduplicate=True,
        on_invalid_row=OnInvalidRow.SKIP,
        max_invalid_rows=100,
    )
    return replace(config, dataset=data_set)


def seen(bench: Workbench) -> list[int]:
    """Numbers of the rows that the function was given since the last time."""
    log = bench.root / "log"
    numbers = [int(line) for line in log.read_text().split()]
    log.write_text("")
    return numbers


def break_off(bench: Workbench, config: RunConfig) -> None:
    (bench.root / "trap").touch()
    with pytest.raises(MemoryError):
        bench.run(config)
    (bench.root / "trap").unlink()
    assert seen(bench) == list(range(BREAK))
    assert not (bench.volume / layout.PREPARED_STATS).exists()


def test_what_was_tokenized_is_used_by_the_next_attempt_with_the_same_result(
    bench: Workbench, rows: list[dict[str, Any]]
) -> None:
    config = job(bench, bench.write("d.jsonl", rows))
    whole = bench.run(config)
    expected = bench.sequences()
    assert (whole.rows, whole.skipped_rows, whole.duplicate_rows, whole.truncated_rows) == (ROWS - 8, 5, 3, 1)
    assert seen(bench) == list(range(ROWS))
    (bench.volume / layout.PREPARED_STATS).unlink()

    break_off(bench, config)
    assert bench.run(config) == whole
    assert seen(bench) == list(range(2 * SHARD, ROWS))
    assert bench.sequences() == expected
    assert not list((bench.volume / layout.PREPARED).glob("scratch*"))


def test_what_was_tokenized_of_other_data_or_for_another_run_is_not_used(
    bench: Workbench, rows: list[dict[str, Any]]
) -> None:
    config = job(bench, bench.write("d.jsonl", rows))
    break_off(bench, config)
    break_off(bench, replace(config, training=replace(config.training, max_length=60)))
    bench.write("d.jsonl", rows[:-1])
    assert bench.run(config).rows == ROWS - 9
    assert seen(bench) == list(range(ROWS - 1))


def test_rows_that_can_not_be_used_leave_nothing_behind(bench: Workbench) -> None:
    path = bench.write("d.jsonl", "".join(json.dumps({"text": f"open {n}"}) + "\n" for n in range(SHARD + 1)) + "{}\n")
    with pytest.raises(StageError, match=r'^d\.jsonl:202: no column "text", the row is empty$'):
        bench.prepare(path)
    assert not list((bench.volume / layout.PREPARED).iterdir())


def test_how_far_it_is_is_told_now_and_then(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = bench.write("d.jsonl", "".join(json.dumps({"text": f"open {n}"}) + "\n" for n in range(4 * SHARD)))
    clock = count(step=16)
    monkeypatch.setattr("sftjob_trainer.tokens.tokenize.monotonic", lambda: next(clock))
    caplog.set_level("INFO", "sftjob_trainer")
    bench.prepare(path)
    told = [line.strip() for line in caplog.messages if "rows tokenized" in line]
    assert told == [f"{path}: 400 rows tokenized in 32 s", f"{path}: 800 rows tokenized in 64 s"]
