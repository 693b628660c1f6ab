"""Rows as examples of one of a few shapes, each checked. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sftjob_contract.config import Columns, DataFormat
from sftjob_trainer.failure import UnfitColumnsError, data_invalid
from sftjob_trainer.messages import SHAREGPT, TURNS, Message, MessageForm, ReadMessage, checked_text, read_messages
from sftjob_trainer.readers import Row
from sftjob_trainer.tool_data import KWARGS, TOOLS, TemplateInput, read_template_input, without_fillers
from sftjob_trainer.wording import columns_there, either, type_name

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
"""The fields of dataset.columns that name what each shape needs."""
_NOTHING: Final = TemplateInput()
_MEDIA: Final = dict.fromkeys(("images", "videos", "audios"), "only text can be trained on: remove the column")
_EARLIER_TURNS: Final = {"history": "write the turns before the last one, and that one, as messages"}
_UNREAD: Final[Mapping[DataFormat, Mapping[str, str]]] = {
    DataFormat.MESSAGES: _MEDIA,
    DataFormat.SHAREGPT: _MEDIA,
    DataFormat.PROMPT_COMPLETION: {**_MEDIA, **_EARLIER_TURNS},
    DataFormat.ALPACA: {**_MEDIA, **_EARLIER_TURNS},
}
"""Columns of other trainers that belong to what is learned, and what to do about each."""
OUTSIDE_OF_TEMPLATES: Final = (*_MEDIA, *_EARLIER_TURNS, TOOLS, KWARGS)
"""Columns that are not looked at where dataset.preprocessing.template says what a row is."""


@dataclass(frozen=True, slots=True)
class Text:
    """Trained on as a whole."""

    place: str
    text: str


@dataclass(frozen=True, slots=True)
class PromptCompletion:
    """Trained on its completion. `has_form`: the prompt says itself where the answer begins.

    `system`, a system prompt, is a part of `prompt` already; `question` is what is left of it.
    """

    place: str
    prompt: str
    completion: str
    has_form: bool = False
    system: str = ""

    @property
    def question(self) -> str:
        """The prompt without the system prompt before it."""
        return self.prompt.removeprefix(f"{self.system}\n\n") if self.system else self.prompt


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages; trained on the assistant's turns, but for those whose indices are in `context`.

    `given` is what else the row gives the chat template. `names` are the places of the messages in the row.
    """

    place: str
    messages: tuple[Message, ...]
    context: frozenset[int] = frozenset()
    given: TemplateInput = _NOTHING
    names: tuple[str, ...] = field(default=(), compare=False)

    def name(self, index: int) -> str:
        """How sentences call the message at `index`."""
        return self.names[index] if self.names else f"messages[{index}]"


@dataclass(frozen=True, slots=True)
class PromptCompletionMessages:
    """Trained on its completion, which is what follows the first `prompt_messages` of the conversation."""

    place: str
    talk: Conversation
    prompt_messages: int

    @property
    def completion(self) -> tuple[Message, ...]:
        """The messages of the completion."""
        return self.talk.messages[self.prompt_messages :]


Example = Text | PromptCompletion | PromptCompletionMessages | Conversation


def detect_format(row: Row, columns: Columns) -> DataFormat:
    """The one shape that the columns of `row` fit.

    Raises:
        Failure: they fit none, or more than one.
    """
    fitting = [shape for shape, needed in _needed(columns).items() if all(name in row.values for name in needed)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UnfitColumnsError(
            row.place, "the columns fit more than one format", f"set dataset.format to {either(fitting)}"
        )
    wanted = either([" and ".join(f'"{name}"' for name in needed) for needed in _needed(columns).values()])
    raise UnfitColumnsError(
        row.place, f"no column {wanted}, {columns_there(row.values)}", "name the right ones in dataset.columns"
    )


def to_example(row: Row, shape: DataFormat, columns: Columns) -> Example:
    """`row` as an example of `shape`, which is one of those of `detect_format`.

    Raises:
        Failure: a column is missing, or its value can not be trained on.
    """
    for named_by, name in zip(_FIELDS[shape], _needed(columns)[shape], strict=True):
        if name not in row.values:
            raise UnfitColumnsError(
                row.place,
                f'no column "{name}", {columns_there(row.values)}',
                f"name the one to read in dataset.columns.{named_by}, or set another dataset.format",
            )
    _check_unread(row, shape)
    makers: Mapping[DataFormat, Callable[[Row, Columns], Example]] = {
        DataFormat.TEXT: lambda row, columns: Text(row.place, _text(row, columns.text)),
        DataFormat.PROMPT_COMPLETION: _prompt_completion,
        DataFormat.MESSAGES: lambda row, columns: _conversation(
            row, _instructed(row, columns, _messages(row, columns.messages, TURNS))
        ),
        DataFormat.ALPACA: _alpaca,
        DataFormat.SHAREGPT: _sharegpt,
    }
    return makers[shape](row, columns)


def unread_columns(row: Row, shape: DataFormat, columns: Columns) -> list[str]:
    """The columns of `row` that no example of `shape` is made of, in their order."""
    beside: Mapping[DataFormat, tuple[str, ...]] = {
        DataFormat.TEXT: (),
        DataFormat.ALPACA: (columns.input, columns.system),
    }
    read = (*_needed(columns)[shape], *beside.get(shape, (columns.system, TOOLS, KWARGS)))
    return [name for name in row.values if name not in read]


def alpaca_prompt(instruction: str, data: str, system: str) -> str:
    """The prompt of an Alpaca row, as in the `text` column of the data set tatsu-lab/alpaca.

    `data` is the row's input, and may be empty. A `system` prompt takes the place of the opening sentences.
    """
    task = system or (_ALPACA_TASK_WITH_INPUT if data else _ALPACA_TASK)
    given = f"### Input:\n{data}\n\n" if data else ""
    return f"{task}\n\n### Instruction:\n{instruction}\n\n{given}### Response:\n"


def _needed(columns: Columns) -> Mapping[DataFormat, tuple[str, ...]]:
    return {shape: tuple(getattr(columns, field) for field in fields) for shape, fields in _FIELDS.items()}


def _prompt_completion(row: Row, columns: Columns) -> PromptCompletion | PromptCompletionMessages:
    prompt, completion = row.values[columns.prompt], row.values[columns.completion]
    if isinstance(prompt, list) and isinstance(completion, list):
        asked = read_messages(without_fillers(row, columns.prompt), columns.prompt, row.place, TURNS)
        asked = _instructed(row, columns, asked)
        talk = _conversation(row, (*asked, *_messages(row, columns.completion, TURNS)))
        return PromptCompletionMessages(row.place, talk, len(asked))
    if isinstance(prompt, list) != isinstance(completion, list):
        raise data_invalid(
            row.place, f'"{columns.prompt}" and "{columns.completion}" must both be text, or both lists of messages'
        )
    for name in (TOOLS, KWARGS):
        if row.values.get(name):
            as_messages = f'write "{columns.prompt}" and "{columns.completion}" as lists of messages'
            raise data_invalid(row.place, f'"{name}" is read beside messages only; {as_messages}')
    system, prompt = _optional_text(row, columns.system), _text(row, columns.prompt, may_be_empty=True)
    asked_text = f"{system}\n\n{prompt}" if system else prompt
    return PromptCompletion(row.place, asked_text, _text(row, columns.completion), system=system)


def _alpaca(row: Row, columns: Columns) -> PromptCompletion:
    prompt = alpaca_prompt(
        _text(row, columns.instruction), _optional_text(row, columns.input), _optional_text(row, columns.system)
    )
    return PromptCompletion(row.place, prompt, _text(row, columns.output), has_form=True)


def _sharegpt(row: Row, columns: Columns) -> Conversation:
    return _conversation(row, _instructed(row, columns, _messages(row, columns.conversations, SHAREGPT)))


def _instructed(row: Row, columns: Columns, messages: tuple[ReadMessage, ...]) -> tuple[ReadMessage, ...]:
    """`messages` after the system prompt that the row has in a column of its own, if it has one.

    Raises:
        Failure: the messages begin with another one.
    """
    system = _optional_text(row, columns.system)
    if not system:
        return messages
    if messages and messages[0].message["role"] == "system":
        if messages[0].message["content"].strip() == system.strip():
            return messages
        raise data_invalid(row.place, f'"{columns.system}" and {messages[0].at} are both system prompts; keep one')
    return (ReadMessage({"role": "system", "content": system}, columns.system), *messages)


def _check_unread(row: Row, shape: DataFormat) -> None:
    """Refuse columns that hold what the author wants trained and that nothing reads, whatever they are called there."""
    for name, todo in _UNREAD.get(shape, {}).items():
        if row.values.get(name):
            raise data_invalid(row.place, f'"{name}" is not read; {todo}')


def _conversation(row: Row, messages: Sequence[ReadMessage]) -> Conversation:
    return Conversation(
        row.place,
        tuple(read.message for read in messages),
        frozenset(index for index, read in enumerate(messages) if not read.trained),
        read_template_input(row),
        tuple(read.at for read in messages),
    )


def _messages(row: Row, column: str, form: MessageForm) -> tuple[ReadMessage, ...]:
    """The messages of a column that is trained on."""
    messages = read_messages(without_fillers(row, column), column, row.place, form)
    turns = [read for read in messages if read.message["role"] == "assistant"]
    if not any(read.trained for read in turns):
        wanted = "assistant turn that is trained" if turns else "assistant turn"
        raise data_invalid(row.place, f'"{column}" has no {wanted}, so there is nothing to train on')
    return messages


def _text(row: Row, column: str, *, may_be_empty: bool = False) -> str:
    value = row.values[column]
    if not isinstance(value, str):
        raise data_invalid(row.place, f'"{column}" must be text, not {type_name(value)}')
    return checked_text(value, f'"{column}"', row.place, may_be_empty=may_be_empty)


def _optional_text(row: Row, column: str) -> str:
    """The text of a column that may be missing, null or blank, which all mean that there is none."""
    if row.values.get(column) is None:
        return ""
    text = _text(row, column, may_be_empty=True)
    return text if text.strip() else ""
