"""Validate rows and convert them to examples of one of a few shapes. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sftjob_contract.run.config import Columns, DataFormat
from sftjob_trainer.process.errors import ColumnMismatchError, data_invalid
from sftjob_trainer.process.wording import describe_columns, one_of, type_name
from sftjob_trainer.rows.messages import (
    SHAREGPT,
    TURNS,
    Message,
    MessageFormat,
    ReadMessage,
    checked_text,
    read_messages,
)
from sftjob_trainer.rows.readers import Row
from sftjob_trainer.rows.tool_data import KWARGS, TOOLS, TemplateInput, read_template_input, without_filler_nulls

_ALPACA_TASK: Final = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)
_ALPACA_TASK_WITH_INPUT: Final = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)


_FIELDS: Final[Mapping[DataFormat, tuple[str, ...]]] = {
    DataFormat.TEXT: ("text",),
    DataFormat.PROMPT_COMPLETION: ("prompt", "completion"),
    DataFormat.MESSAGES: ("messages",),
    DataFormat.ALPACA: ("instruction", "output"),
    DataFormat.SHAREGPT: ("conversations",),
}
"""The fields of dataset.columns that name the columns of each shape."""
_NO_INPUT: Final = TemplateInput()
_MEDIA: Final = dict.fromkeys(("images", "videos", "audios"), "only text can be trained on: remove the column")
_EARLIER_TURNS: Final = {"history": "write the turns before the last one, and that one, as messages"}
_UNREAD: Final[Mapping[DataFormat, Mapping[str, str]]] = {
    DataFormat.MESSAGES: _MEDIA,
    DataFormat.SHAREGPT: _MEDIA,
    DataFormat.PROMPT_COMPLETION: {**_MEDIA, **_EARLIER_TURNS},
    DataFormat.ALPACA: {**_MEDIA, **_EARLIER_TURNS},
}
"""Columns of other trainers that belong to the training data, with advice for each."""
OUTSIDE_OF_TEMPLATES: Final = (*_MEDIA, *_EARLIER_TURNS, TOOLS, KWARGS)
"""Columns that are ignored if dataset.preprocessing.template defines the row."""


@dataclass(frozen=True, slots=True)
class Text:
    """Trained as a whole."""

    location: str
    text: str


@dataclass(frozen=True, slots=True)
class PromptCompletion:
    """Only the completion is trained. `has_own_format`: the prompt itself marks where the answer starts.

    `system`, a system prompt, is already part of `prompt`; `question` is the rest of it.
    """

    location: str
    prompt: str
    completion: str
    has_own_format: bool = False
    system: str = ""

    @property
    def question(self) -> str:
        """The prompt without the system prompt before it."""
        return self.prompt.removeprefix(f"{self.system}\n\n") if self.system else self.prompt


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages; the assistant's turns are trained, except those whose indices are in `context`.

    `template_input` are the row's other inputs to the chat template. `names` are the paths of the messages in the row.
    """

    location: str
    messages: tuple[Message, ...]
    context: frozenset[int] = frozenset()
    template_input: TemplateInput = _NO_INPUT
    names: tuple[str, ...] = field(default=(), compare=False)

    def message_name(self, index: int) -> str:
        """The name of the message at `index` in messages to the user."""
        return self.names[index] if self.names else f"messages[{index}]"


@dataclass(frozen=True, slots=True)
class PromptCompletionMessages:
    """Only the completion is trained: what follows the first `prompt_messages` of the conversation."""

    location: str
    conversation: Conversation
    prompt_messages: int

    @property
    def completion(self) -> tuple[Message, ...]:
        """The messages of the completion."""
        return self.conversation.messages[self.prompt_messages :]


Example = Text | PromptCompletion | PromptCompletionMessages | Conversation


def detect_format(row: Row, columns: Columns) -> DataFormat:
    """The one shape that the columns of `row` match.

    Raises:
        StageError: they match none, or more than one.
    """
    fitting = [
        shape for shape, needed in _required_columns(columns).items() if all(name in row.values for name in needed)
    ]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ColumnMismatchError(
            row.location, "the columns fit more than one format", f"set dataset.format to {one_of(fitting)}"
        )
    wanted = one_of([" and ".join(f'"{name}"' for name in needed) for needed in _required_columns(columns).values()])
    raise ColumnMismatchError(
        row.location, f"no column {wanted}, {describe_columns(row.values)}", "name the right ones in dataset.columns"
    )


def to_example(row: Row, shape: DataFormat, columns: Columns) -> Example:
    """`row` as an example of `shape`, which is one of the results of `detect_format`.

    Raises:
        StageError: a column is missing, or its value cannot be trained on.
    """
    for named_by, name in zip(_FIELDS[shape], _required_columns(columns)[shape], strict=True):
        if name not in row.values:
            raise ColumnMismatchError(
                row.location,
                f'no column "{name}", {describe_columns(row.values)}',
                f"name the one to read in dataset.columns.{named_by}, or set another dataset.format",
            )
    _check_unread(row, shape)
    makers: Mapping[DataFormat, Callable[[Row, Columns], Example]] = {
        DataFormat.TEXT: lambda row, columns: Text(row.location, _text(row, columns.text)),
        DataFormat.PROMPT_COMPLETION: _prompt_completion,
        DataFormat.MESSAGES: lambda row, columns: _conversation(
            row, _with_system_prompt(row, columns, _messages(row, columns.messages, TURNS))
        ),
        DataFormat.ALPACA: _alpaca,
        DataFormat.SHAREGPT: lambda row, columns: _conversation(
            row, _with_system_prompt(row, columns, _messages(row, columns.conversations, SHAREGPT))
        ),
    }
    return makers[shape](row, columns)


def unread_columns(row: Row, shape: DataFormat, columns: Columns) -> list[str]:
    """The columns of `row` that are not part of an example of `shape`, in their order."""
    beside: Mapping[DataFormat, tuple[str, ...]] = {
        DataFormat.TEXT: (),
        DataFormat.ALPACA: (columns.input, columns.system),
    }
    read = (*_required_columns(columns)[shape], *beside.get(shape, (columns.system, TOOLS, KWARGS)))
    return [name for name in row.values if name not in read]


def alpaca_prompt(instruction: str, data: str, system: str) -> str:
    """The prompt of an Alpaca row, as in the `text` column of the dataset tatsu-lab/alpaca.

    `data` is the row's input, and may be empty. A `system` prompt replaces the opening sentences.
    """
    task = system or (_ALPACA_TASK_WITH_INPUT if data else _ALPACA_TASK)
    template_input = f"### Input:\n{data}\n\n" if data else ""
    return f"{task}\n\n### Instruction:\n{instruction}\n\n{template_input}### Response:\n"


def _required_columns(columns: Columns) -> Mapping[DataFormat, tuple[str, ...]]:
    return {shape: tuple(getattr(columns, field) for field in fields) for shape, fields in _FIELDS.items()}


def _prompt_completion(row: Row, columns: Columns) -> PromptCompletion | PromptCompletionMessages:
    prompt, completion = row.values[columns.prompt], row.values[columns.completion]
    if isinstance(prompt, list) and isinstance(completion, list):
        prompt_turns = read_messages(without_filler_nulls(row, columns.prompt), columns.prompt, row.location, TURNS)
        prompt_turns = _with_system_prompt(row, columns, prompt_turns)
        conversation = _conversation(row, (*prompt_turns, *_messages(row, columns.completion, TURNS)))
        return PromptCompletionMessages(row.location, conversation, len(prompt_turns))
    if isinstance(prompt, list) != isinstance(completion, list):
        raise data_invalid(
            row.location, f'"{columns.prompt}" and "{columns.completion}" must both be text, or both lists of messages'
        )
    for name in (TOOLS, KWARGS):
        if row.values.get(name):
            as_messages = f'write "{columns.prompt}" and "{columns.completion}" as lists of messages'
            raise data_invalid(row.location, f'"{name}" is only read next to messages; {as_messages}')
    system, prompt = _optional_text(row, columns.system), _text(row, columns.prompt, may_be_empty=True)
    prompt_text = f"{system}\n\n{prompt}" if system else prompt
    return PromptCompletion(row.location, prompt_text, _text(row, columns.completion), system=system)


def _alpaca(row: Row, columns: Columns) -> PromptCompletion:
    prompt = alpaca_prompt(
        _text(row, columns.instruction), _optional_text(row, columns.input), _optional_text(row, columns.system)
    )
    return PromptCompletion(row.location, prompt, _text(row, columns.output), has_own_format=True)


def _with_system_prompt(row: Row, columns: Columns, messages: tuple[ReadMessage, ...]) -> tuple[ReadMessage, ...]:
    """`messages` after the system prompt from the row's own column for it, if any.

    Raises:
        StageError: the messages start with another system prompt.
    """
    system = _optional_text(row, columns.system)
    if not system:
        return messages
    if messages and messages[0].message["role"] == "system":
        if messages[0].message["content"].strip() == system.strip():
            return messages
        raise data_invalid(row.location, f'"{columns.system}" and {messages[0].path} are both system prompts; keep one')
    return (ReadMessage({"role": "system", "content": system}, columns.system), *messages)


def _check_unread(row: Row, shape: DataFormat) -> None:
    """Refuse unread columns whose content the author wants trained, regardless of the configured column names."""
    for name, advice in _UNREAD.get(shape, {}).items():
        if row.values.get(name):
            raise data_invalid(row.location, f'"{name}" is not read; {advice}')


def _conversation(row: Row, messages: Sequence[ReadMessage]) -> Conversation:
    return Conversation(
        row.location,
        tuple(read.message for read in messages),
        frozenset(index for index, read in enumerate(messages) if not read.trained),
        read_template_input(row),
        tuple(read.path for read in messages),
    )


def _messages(row: Row, column: str, message_format: MessageFormat) -> tuple[ReadMessage, ...]:
    """The messages of a trained column."""
    messages = read_messages(without_filler_nulls(row, column), column, row.location, message_format)
    turns = [read for read in messages if read.message["role"] == "assistant"]
    if not any(read.trained for read in turns):
        wanted = "assistant turn that is trained" if turns else "assistant turn"
        raise data_invalid(row.location, f'"{column}" has no {wanted}, so there is nothing to train on')
    return messages


def _text(row: Row, column: str, *, may_be_empty: bool = False) -> str:
    value = row.values[column]
    if not isinstance(value, str):
        raise data_invalid(row.location, f'"{column}" must be text, not {type_name(value)}')
    return checked_text(value, f'"{column}"', row.location, may_be_empty=may_be_empty)


def _optional_text(row: Row, column: str) -> str:
    """The text of an optional column; missing, null and blank all mean that there is no text."""
    if row.values.get(column) is None:
        return ""
    text = _text(row, column, may_be_empty=True)
    return text if text.strip() else ""
