"""Rows as examples of one of three shapes, each checked. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sftjob_contract.config import Columns, DataFormat
from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure
from sftjob_trainer.files import Row
from sftjob_trainer.wording import either, type_name

ROLES: Final = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Text:
    """Trained on as a whole."""

    place: str
    text: str


@dataclass(frozen=True, slots=True)
class PromptCompletion:
    """Trained on its completion."""

    place: str
    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages of `role` and `content`; trained on the assistant's turns."""

    place: str
    messages: tuple[Mapping[str, str], ...]


Example = Text | PromptCompletion | Conversation


def detect_format(row: Row, columns: Columns) -> DataFormat:
    """The one shape that the columns of `row` fit.

    Raises:
        Failure: they fit none, or more than one.
    """
    fitting = [shape for shape, needed in _needed(columns).items() if all(name in row.values for name in needed)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise _invalid(row.place, f"the columns fit more than one format; set dataset.format to {either(fitting)}")
    wanted = either([" and ".join(f'"{name}"' for name in needed) for needed in _needed(columns).values()])
    raise _invalid(row.place, f"no column {wanted}, {_there(row)}; name the right ones in dataset.columns")


def to_example(row: Row, shape: DataFormat, columns: Columns) -> Example:
    """`row` as an example of `shape`.

    Raises:
        Failure: a column is missing, or its value can not be trained on.
    """
    for name in _needed(columns)[shape]:
        if name not in row.values:
            raise _invalid(row.place, f'no column "{name}", {_there(row)}')
    if shape is DataFormat.TEXT:
        return Text(row.place, _text(row, columns.text, may_be_empty=False))
    if shape is DataFormat.PROMPT_COMPLETION:
        prompt = _text(row, columns.prompt, may_be_empty=True)
        return PromptCompletion(row.place, prompt, _text(row, columns.completion, may_be_empty=False))
    return Conversation(row.place, _messages(row, columns.messages))


def _needed(columns: Columns) -> Mapping[DataFormat, tuple[str, ...]]:
    return {
        DataFormat.TEXT: (columns.text,),
        DataFormat.PROMPT_COMPLETION: (columns.prompt, columns.completion),
        DataFormat.MESSAGES: (columns.messages,),
    }


def _text(row: Row, column: str, *, may_be_empty: bool) -> str:
    return _checked_text(row.values[column], f'"{column}"', row.place, may_be_empty=may_be_empty)


def _messages(row: Row, column: str) -> tuple[Mapping[str, str], ...]:
    value = row.values[column]
    if not isinstance(value, list):
        raise _invalid(row.place, f'"{column}" must be a list of {{role, content}} objects, not {type_name(value)}')
    messages = tuple(_message(item, f"{column}[{index}]", row.place) for index, item in enumerate(value))
    if not any(message["role"] == "assistant" for message in messages):
        raise _invalid(row.place, f'"{column}" has no assistant turn, so there is nothing to train on')
    return messages


def _message(item: Any, at: str, place: str) -> Mapping[str, str]:
    if not isinstance(item, dict):
        raise _invalid(place, f"{at} must be an object with role and content, not {type_name(item)}")
    for key in ("role", "content"):
        if key not in item:
            raise _invalid(place, f"{at} has no {key}; it has {_quoted(item)}")
    role = item["role"]
    if role not in ROLES:
        shown = f'"{role}"' if isinstance(role, str) else type_name(role)
        raise _invalid(place, f"{at}.role must be {either(ROLES)}, not {shown}")
    if item.get("tool_calls"):
        raise _invalid(place, f"{at} has tool_calls, which are not supported; write the call into content")
    content = _checked_text(item["content"], f"{at}.content", place, may_be_empty=role != "assistant")
    return {"role": role, "content": content}


def _checked_text(value: Any, at: str, place: str, *, may_be_empty: bool) -> str:
    if not isinstance(value, str):
        raise _invalid(place, f"{at} must be text, not {type_name(value)}")
    if not value and not may_be_empty:
        raise _invalid(place, f"{at} is empty, so there is nothing to train on")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        found = f"\\u{ord(value[error.start]):04x}"
        raise _invalid(place, f"{at} contains {found}, half of a surrogate pair, which is no character") from error
    return value


def _there(row: Row) -> str:
    return f"there is {_quoted(row.values)}" if row.values else "the row is empty"


def _quoted(keys: Mapping[Any, Any]) -> str:
    shown = [f'"{str(key)[:40]}"' for key in list(keys)[:8]]
    return ", ".join(shown + ["..."] * (len(keys) > len(shown))) or "nothing"


def _invalid(place: str, problem: str) -> Failure:
    return Failure(Reason.DATA_INVALID, f"{place}: {problem}")
