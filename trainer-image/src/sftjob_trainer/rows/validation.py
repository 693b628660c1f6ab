"""Validate the content of training rows: a regular expression, a syntax, or a user's command for each text."""

import json
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, NoReturn

import yaml

from sftjob_contract.run.config import Syntax, Validation
from sftjob_trainer.process.errors import ColumnMismatchError, StageError, data_invalid
from sftjob_trainer.process.wording import describe_columns, type_name
from sftjob_trainer.rows.commands import COMMAND_FIELD, check_program, command_problem
from sftjob_trainer.rows.examples import Conversation, Example, PromptCompletion, PromptCompletionMessages, Text
from sftjob_trainer.rows.messages import checked_text
from sftjob_trainer.rows.readers import Row

_FIELD: Final = "dataset.validation"

Check = Callable[[Sequence[tuple[Row, Example]]], Iterator[StageError | None]]
"""For each row and its example, in order, why it does not pass, or None."""


@contextmanager
def row_check(validation: Validation | None) -> Iterator[Check]:
    """The check for the rows of a source; as many commands run in parallel as this process has CPUs.

    Raises:
        StageError: the command's program does not exist, or cannot be started.
    """
    if validation is None:
        yield lambda rows: iter([None] * len(rows))
        return
    check_row = _check_of(validation)
    if not validation.command:
        yield lambda rows: (check_row(row, example) for row, example in rows)
        return
    check_program(validation.command[0])
    workers = ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0)))
    try:
        yield lambda rows: workers.map(check_row, *zip(*rows, strict=True))
    finally:
        workers.shutdown(cancel_futures=True)


def _check_of(validation: Validation) -> Callable[[Row, Example], StageError | None]:
    regex = None if validation.regex is None else re.compile(validation.regex)

    def problem(text: str) -> str | None:
        """What is wrong with `text`, as a clause that follows its name."""
        if regex is not None and not regex.search(text):
            return f"does not match {_FIELD}.regex {validation.regex}"
        if validation.syntax is not None and (error_text := syntax_problem(text, validation.syntax)) is not None:
            return f"does not pass {_FIELD}.syntax: {validation.syntax}: {error_text}"
        if not validation.command:
            return None
        error_text = command_problem(validation.command, text, validation.timeout_seconds)
        return None if error_text is None else f"does not pass {COMMAND_FIELD}: {error_text}"

    def check_row(row: Row, example: Example) -> StageError | None:
        try:
            texts = list(checked_texts(row, example, validation.column))
        except StageError as failure:
            return failure
        for name, text in texts:
            if (error_text := problem(text)) is not None:
                return data_invalid(row.location, f"{name} {error_text}")
        return None

    return check_row


def checked_texts(row: Row, example: Example, column: str | None) -> Iterator[tuple[str, str]]:
    """Name and text of what is checked in a row: its `column`, or by default its trained text.

    Raises:
        StageError: there is no such column, or it has no text.
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
    """The syntax error of `text`; None if there is none. Nothing in it is executed."""
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
    conversation, first, part = (
        (example, 0, "")
        if isinstance(example, Conversation)
        else (example.conversation, example.prompt_messages, " of the completion")
    )
    for index, message in enumerate(conversation.messages[first:]):
        if message["role"] == "assistant" and message["content"] and index + first not in conversation.context:
            yield f"message {index}{part}", message["content"]


def _text_of(row: Row, column: str) -> str:
    if column not in row.values:
        raise ColumnMismatchError(
            row.location,
            f'{_FIELD}.column: no column "{column}", {describe_columns(row.values)}',
            f"name one of them in {_FIELD}.column",
        )
    value = row.values[column]
    if not isinstance(value, str):
        raise data_invalid(row.location, f'{_FIELD}.column: "{column}" must be text, not {type_name(value)}')
    return checked_text(value, f'"{column}"', row.location, may_be_empty=True)


def _json_problem(text: str) -> str | None:
    try:
        json.loads(text, parse_constant=_refused_constant, parse_int=len)
    except json.JSONDecodeError as error:
        return f"{error.msg} at line {error.lineno} column {error.colno}"
    except ValueError as error:
        return str(error)
    return None


def _refused_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _yaml_problem(text: str) -> str | None:
    """The YAML syntax error of `text`, if any. Only the structure is parsed, so application tags are not an error."""
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
        suffix = "" if error.lineno is None else f" at line {error.lineno} column {error.offset}"
        return f"{error.msg}{suffix}"
    except ValueError as error:
        return str(error)
    except MemoryError:
        return "nested too deeply"
    return None
