"""What answers must pass to be trained on: an expression, a syntax, a command."""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import OnInvalidRow, RunConfig, Syntax, Validation
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.rows.validation import syntax_problem
from support.clients.wait import eventually
from support.trainer.preparing import Workbench

PYTHON = sys.executable


def validation(**given: Any) -> Validation:
    usual: dict[str, Any] = {"column": None, "regex": None, "syntax": None, "command": (), "timeout_seconds": 60}
    return Validation(**{**usual, **given})


def validated(config: RunConfig, wanted: Validation, *, skip: bool = False) -> RunConfig:
    """A run whose rows must pass; with `skip`, up to 10 that do not are left out."""
    (part,) = config.dataset.sources
    data = replace(config.dataset, sources=(replace(part, validation=wanted),))
    if skip:
        data = replace(data, on_invalid_row=OnInvalidRow.SKIP, max_invalid_rows=10)
    return replace(config, dataset=data)


def refusal(bench: Workbench, rows: Sequence[dict[str, Any]], **given: Any) -> str:
    with pytest.raises(StageError) as raised:
        bench.run(validated(bench.config(bench.write("d.jsonl", rows)), validation(**given)))
    assert (raised.value.reason, raised.value.exit_code) == (Reason.DATA_INVALID, ExitCode.INVALID)
    return raised.value.message


def answer(text: str) -> dict[str, str]:
    return {"prompt": "not checked", "completion": text}


def chat(*answers: str) -> dict[str, Any]:
    turns = [turn for text in answers for turn in (("user", "not checked"), ("assistant", text))]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"text": "bad"}, "the text"),
        (answer("bad"), "the completion"),
        ({"instruction": "not checked", "output": "bad"}, "the completion"),
        (chat("bad"), "message 1"),
        (chat("a = 1", "bad"), "message 3"),
        ({"prompt": chat("x")["messages"], "completion": [{"role": "assistant", "content": "bad"}]},
         "message 0 of the completion"),
        ({"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "bad"}]}, "message 1"),
    ],
)  # fmt: skip
def test_what_a_row_is_trained_on_is_checked_and_nothing_else(bench: Workbench, row: dict[str, Any], name: str) -> None:
    assert refusal(bench, [row], regex="^a = ") == f"d.jsonl:1: {name} does not match dataset.validation.regex ^a = "


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({**answer("x"), "code": "bad"}, '"code" does not match dataset.validation.regex ^a = '),
        (answer("x"), 'dataset.validation.column: no column "code", there is "prompt", "completion"'),
        ({**answer("x"), "code": 3}, 'dataset.validation.column: "code" must be text, not a number'),
    ],
)
def test_another_column_can_be_checked(bench: Workbench, row: dict[str, Any], sentence: str) -> None:
    rows = [{**answer("x"), "code": "a = 1"}, row]
    assert refusal(bench, rows, column="code", regex="^a = ") == f"d.jsonl:2: {sentence}"


@pytest.mark.usefixtures("no_finalizers")
@pytest.mark.parametrize(
    ("syntax", "text", "problem"),
    [
        (Syntax.JSON, '{"a": [1, null]}', None),
        (Syntax.JSON, '"text"', None),
        (Syntax.JSON, "7" * 5000, None),
        (Syntax.JSON, '{"a": 1,}', "Expecting property name enclosed in double quotes at line 1 column 9"),
        (Syntax.JSON, '{\n  "a" 1}', "Expecting ':' delimiter at line 2 column 7"),
        (Syntax.JSON, "", "Expecting value at line 1 column 1"),
        (Syntax.JSON, "[NaN]", "NaN is not a JSON value"),
        (Syntax.JSON, "[" * 100_000, "nested too deeply"),
        (Syntax.YAML, "a: 1\nb: [x, y]\n---\nc: !Ref bucket\n", None),
        (Syntax.YAML, "a: 1\n b: 2\n", "mapping values are not allowed here at line 2 column 3"),
        (Syntax.YAML, "a: *none\n", "found undefined alias 'none' at line 1 column 4"),
        (Syntax.YAML, "a:\n\t- b\n", "found character '\\t' that cannot start any token at line 2 column 1"),
        (Syntax.PYTHON, "def f(x: int) -> int:\n    return x\n", None),
        (Syntax.PYTHON, "import nowhere\nraise SystemExit(nowhere)\n", None),
        (Syntax.PYTHON, "'\\d'", None),
        (Syntax.PYTHON, "def f(:\n  pass\n", "invalid syntax at line 1 column 7"),
        (Syntax.PYTHON, "return 1\n", "'return' outside function at line 1 column 1"),
        (Syntax.PYTHON, "if x:\npass", "expected an indented block after 'if' statement on line 1 at line 2 column 1"),
        (Syntax.PYTHON, "a = '\0'", "source code string cannot contain null bytes"),
    ],
)  # fmt: skip
def test_a_syntax_is_checked_and_nothing_is_run(syntax: Syntax, text: str, problem: str | None) -> None:
    assert syntax_problem(text, syntax) == problem


def test_an_error_of_syntax_is_told_with_row_and_line(bench: Workbench) -> None:
    rows = [answer("a = 1"), answer("a = (1")]
    assert refusal(bench, rows, syntax=Syntax.PYTHON) == (
        "d.jsonl:2: the completion does not pass dataset.validation.syntax: python: '(' was never closed "
        "at line 1 column 5"
    )


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("import sys; sys.exit(3)", "exit code 3"),
        ("import sys; print('no'); sys.exit('too\\nbad\\n\\n')", "exit code 1: bad"),
        ("assert False, 'wrong answer'", "exit code 1: AssertionError: wrong answer"),
        ("import sys; assert len(sys.stdin.read()) > 9", "exit code 1: AssertionError"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "it was ended by signal 9"),
        ("print('x' * 10**6, end=''); raise SystemExit(1)", f"exit code 1: {'x' * 200}"),
    ],
)
def test_a_command_that_does_not_end_with_zero_refuses_the_text(bench: Workbench, script: str, problem: str) -> None:
    assert refusal(bench, [answer("a = 1")], command=(PYTHON, "-c", script)) == (
        f"d.jsonl:1: the completion does not pass dataset.validation.command: {problem}"
    )


def test_a_command_has_only_so_much_time_and_leaves_nothing_running(bench: Workbench) -> None:
    pid = bench.root / "pid"
    script = f"echo $$ > {pid}; tail -f /dev/null & echo $! >> {pid}; wait"
    assert refusal(bench, [answer("a")], command=("sh", "-c", script), timeout_seconds=1) == (
        "d.jsonl:1: the completion does not pass dataset.validation.command: it did not end within 1 s"
    )

    async def all_ended() -> bool:
        return not any(is_running(int(number)) for number in pid.read_text().split())

    asyncio.run(eventually(all_ended, "a process of the command runs on"))


def is_running(pid: int) -> bool:
    """Whether there is such a process that is not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in ("Z", "X")


def test_a_command_gets_the_text_in_an_empty_directory_and_none_of_the_pods_variables(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_never_to_be_seen")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "never_to_be_seen")
    seen = bench.root / "seen.json"
    script = (
        "import json, os, sys; text = sys.stdin.read(); "
        f"json.dump([text, sorted(os.environ), os.listdir(), os.getcwd()], open({str(seen)!r}, 'w'))"
    )
    bench.run(
        validated(bench.config(bench.write("d.jsonl", [answer("été\n")])), validation(command=(PYTHON, "-c", script)))
    )
    text, variables, files, directory = json.loads(seen.read_text())
    assert text == "été\n"
    assert {"PATH", "HOME", "TMPDIR"} <= set(variables) <= {"PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LC_CTYPE"}
    assert files == []
    assert not Path(directory).exists()


def test_a_program_that_is_not_there_ends_the_job(bench: Workbench) -> None:
    config = bench.config(bench.write("d.jsonl", [answer("a")]))
    with pytest.raises(StageError) as raised:
        bench.run(validated(config, validation(command=("no-such-program", "-q")), skip=True))
    assert raised.value.reason is Reason.CONFIG_INVALID
    assert raised.value.message == (
        "dataset.validation.command: there is no program no-such-program in the trainer's image; install it there, "
        "or write another one"
    )


def test_a_program_that_can_not_be_started_ends_the_job(bench: Workbench) -> None:
    program = bench.root / "check"
    program.write_bytes(b"neither a script nor a program")
    program.chmod(0o755)
    config = bench.config(bench.write("d.jsonl", [answer("a")]))
    with pytest.raises(StageError) as raised:
        bench.run(validated(config, validation(command=(str(program),)), skip=True))
    assert raised.value.reason is Reason.CONFIG_INVALID
    assert raised.value.message == (f"dataset.validation.command: {program} cannot be started: Exec format error")


CHECKS = {
    "expression": {"regex": "good"},
    "syntax": {"column": "code", "syntax": Syntax.PYTHON},
    "command": {"command": ("grep", "-q", "good")},
    "all of them": {"regex": "^good", "syntax": Syntax.PYTHON, "command": ("grep", "-q", "good")},
}


@pytest.mark.parametrize("given", CHECKS.values(), ids=CHECKS)
def test_refused_rows_are_left_out_and_counted_apart_where_that_is_asked_for(
    bench: Workbench, given: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{**answer(f"good{n}"), "code": "x"} if n % 3 else {**answer("ba d"), "code": "("} for n in range(12)]
    caplog.set_level("INFO", "sftjob_trainer")
    stats = bench.run(
        validated(bench.config(bench.write("d.jsonl", [*rows, {"prompt": 1}])), validation(**given), skip=True)
    )
    assert (stats.rows, stats.skipped_rows, stats.refused_rows) == (8, 5, 4)
    assert "      left out: 1 rows cannot be used" in caplog.messages
    assert "      left out: 4 rows do not pass dataset.validation" in caplog.messages
    kept = bench.sequences()
    bench.prepare(bench.write("d.jsonl", [row for row in rows if "good" in row["completion"]]))
    assert bench.sequences() == kept


def test_refused_rows_count_for_the_limit_of_invalid_rows(bench: Workbench) -> None:
    rows = [answer("bad")] * 11
    config = validated(bench.config(bench.write("d.jsonl", rows)), validation(regex="good"), skip=True)
    with pytest.raises(StageError) as raised:
        bench.run(config)
    assert raised.value.message == (
        "d.jsonl:11: the completion does not match dataset.validation.regex good: more rows cannot be used than the "
        "10 of dataset.maxInvalidRows; the first was d.jsonl:1: the completion does not match dataset.validation.regex "
        "good"
    )


def test_commands_run_as_many_at_a_time_as_there_are_cpus(bench: Workbench) -> None:
    """Each command notes when it begins and ends, in one file that is only appended to."""
    log = bench.root / "log"
    script = f"echo begin >> {log}; cat > text; echo end >> {log}"
    rows = [answer(str(number)) for number in range(40)]
    config = validated(bench.config(bench.write("d.jsonl", rows)), validation(command=("sh", "-c", script)))
    assert bench.run(config).rows == 40
    running, most = 0, 0
    for word in log.read_text().split():
        running += 1 if word == "begin" else -1
        most = max(most, running)
    assert running == 0
    assert most <= len(os.sched_getaffinity(0))
