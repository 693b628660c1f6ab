"""Whether what a row teaches is good: a regular expression, a syntax, or a user's command for each text."""

import json
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, NoReturn

import yaml

from sftjob_contract.config import Syntax, Validation
from sftjob_trainer.commands import COMMAND_FIELD, check_program, problem_of_command
from sftjob_trainer.failure import Failure, UnfitColumnsError, data_invalid
from sftjob_trainer.messages import checked_text
from sftjob_trainer.readers import Row
from sftjob_trainer.shapes import Conversation, Example, PromptCompletion, PromptCompletionMessages, Text
from sftjob_trainer.wording import columns_there, type_name

_FIELD: Final = "dataset.validation"

Check = Callable[[Sequence[tuple[Row, Example]]], Iterator[Failure | None]]
"""For each row and its example, in their order, why it does not pass, or None."""


@contextmanager
def checking(validation: Validation | None) -> Iterator[Check]:
    """What checks the rows of a source; commands run as many at a time as this process has CPUs.

    Raises:
        Failure: the program of the command is not there, or can not be started.
    """
    if validation is None:
        yield lambda rows: iter([None] * len(rows))
        return
    verdict = _verdicts(validation)
    if not validation.command:
        yield lambda rows: (verdict(row, example) for row, example in rows)
        return
    check_program(validation.command[0])
    workers = ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0)))
    try:
        yield lambda rows: workers.map(verdict, *zip(*rows, strict=True))
    finally:
        workers.shutdown(cancel_futures=True)


def _verdicts(validation: Validation) -> Callable[[Row, Example], Failure | None]:
    regex = None if validation.regex is None else re.compile(validation.regex)

    def problem(text: str) -> str | None:
        """What is wrong with `text`, to follow its name in a sentence."""
        if regex is not None and not regex.search(text):
            return f"does not match {_FIELD}.regex {validation.regex}"
        if validation.syntax is not None and (wrong := syntax_problem(text, validation.syntax)) is not None:
            return f"does not pass {_FIELD}.syntax: {validation.syntax}: {wrong}"
        if not validation.command:
            return None
        wrong = problem_of_command(validation.command, text, validation.timeout_seconds)
        return None if wrong is None else f"does not pass {COMMAND_FIELD}: {wrong}"

    def verdict(row: Row, example: Example) -> Failure | None:
        try:
            texts = list(checked_texts(row, example, validation.column))
        except Failure as failure:
            return failure
        for name, text in texts:
            if (wrong := problem(text)) is not None:
                return data_invalid(row.place, f"{name} {wrong}")
        return None

    return verdict


def checked_texts(row: Row, example: Example, column: str | None) -> Iterator[tuple[str, str]]:
    """Name and text of what is checked of a row: its `column`, or what it is trained on by default.

    Raises:
        Failure: there is no such column, or no text in it.
    """
    if column is not None:
        yield f'"{column}"', _text_of(row, column)
    elif isinstance(example, Text):
        yield "the text", example.text
    elif isinstance(example, PromptCompletion):
        yield "the completion", example.completion
    else:
        yield from _turns(example)


def syntax_problem(text: str, syntax: Syntax) -> str | None:
    """What is wrong with the syntax of `text`, None if nothing is. Nothing of it is run."""
    checks: dict[Syntax, Callable[[str], str | None]] = {
        Syntax.JSON: _json_problem,
        Syntax.YAML: _yaml_problem,
        Syntax.PYTHON: _python_problem,
    }
    try:
        return checks[syntax](text)
    except RecursionError:
        return "nested too deeply"


def _turns(example: Conversation | PromptCompletionMessages) -> Iterator[tuple[str, str]]:
    talk, first, part = (
        (example, 0, "")
        if isinstance(example, Conversation)
        else (example.talk, example.prompt_messages, " of the completion")
    )
    for index, message in enumerate(talk.messages[first:]):
        if message["role"] == "assistant" and message["content"] and index + first not in talk.context:
            yield f"message {index}{part}", message["content"]


def _text_of(row: Row, column: str) -> str:
    if column not in row.values:
        raise UnfitColumnsError(
            row.place,
            f'{_FIELD}.column: no column "{column}", {columns_there(row.values)}',
            f"name one of them in {_FIELD}.column",
        )
    value = row.values[column]
    if not isinstance(value, str):
        raise data_invalid(row.place, f'{_FIELD}.column: "{column}" must be text, not {type_name(value)}')
    return checked_text(value, f'"{column}"', row.place, may_be_empty=True)


def _json_problem(text: str) -> str | None:
    try:
        json.loads(text, parse_constant=_refused_constant, parse_int=len)
    except json.JSONDecodeError as error:
        return f"{error.msg} at line {error.lineno} column {error.colno}"
    except ValueError as error:
        return str(error)
    return None


def _refused_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a value of JSON")


def _yaml_problem(text: str) -> str | None:
    """Only what the text is made of is looked at, so that tags of programs are no error."""
    try:
        for _ in yaml.compose_all(text, Loader=yaml.SafeLoader):
            pass
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        return f"{error.problem}" + ("" if mark is None else f" at line {mark.line + 1} column {mark.column + 1}")
    except yaml.YAMLError as error:
        return str(error).partition("\n")[0]
    return None


def _python_problem(text: str) -> str | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            compile(text, "<text>", "exec", dont_inherit=True)
    except SyntaxError as error:
        at = "" if error.lineno is None else f" at line {error.lineno} column {error.offset}"
        return f"{error.msg}{at}"
    except ValueError as error:
        return str(error)
    except MemoryError:
        return "nested too deeply"
    return None
