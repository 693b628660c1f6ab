"""Chat templates: which one a run uses, how it renders conversations, and which text the assistant wrote."""

import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Final

from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import ChatTemplate
from sftjob_trainer.process.errors import StageError, data_invalid
from sftjob_trainer.process.wording import one_of
from sftjob_trainer.rows.examples import Conversation
from sftjob_trainer.rows.messages import THOUGHT_KEYS, Message
from sftjob_trainer.rows.tool_data import KWARGS, RESERVED_KWARGS, TOOLS, TemplateInput, with_arguments_as_text
from sftjob_trainer.tokens.special_tokens import closing_token
from sftjob_trainer.tokens.template_check import (
    ToolCallFormat,
    check_template,
    describe_template,
    detect_call_format,
    generation_prompt,
)
from sftjob_trainer.tokens.template_coverage import hidden_keys, hidden_thought, hidden_tools
from sftjob_trainer.tokens.template_rendering import Spans, has_markers, render, variables_of
from sftjob_trainer.tokens.turns import Messages, TemplateError, TurnFinder, TurnNotFoundError, without_thought

logger = logging.getLogger(__name__)

_KWARGS_FIELD: Final = "model.chatTemplateKwargs"
_SHORT_CHARACTERS: Final = 24
"""A shorter content can appear in a text by chance."""
_TEMPLATE_ADVICE: Final = (
    "choose another one with model.chatTemplate.name, or write your own into model.chatTemplate.jinja"
)


def load_chat_template(wanted: ChatTemplate, tokenizer: Any, kwargs: Mapping[str, Any] | None = None) -> str:
    """The text of the template that the run config selects.

    A built-in template starts with the beginning-of-sequence token if the tokenizer itself adds one to every text.

    Raises:
        StageError: the template cannot be read, or a model cannot be trained with it.
    """
    if wanted.name is not None:
        template = resources.files("sftjob_trainer").joinpath("templates", f"{wanted.name}.jinja")
        bos = tokenizer.bos_token_id
        adds_bos = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
        return ("{{- bos_token -}}\n" if adds_bos else "") + template.read_text(encoding="utf-8")
    field_name = "model.chatTemplate.jinja" if wanted.file is None else "model.chatTemplate.configMapKeyRef"
    text = wanted.jinja or ""
    if wanted.file is not None:
        try:
            text = Path(wanted.file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise StageError(Reason.CONFIG_INVALID, f"{field_name}: {wanted.file} cannot be read: {error}") from error
    try:
        check_template(text, tokenizer, kwargs)
    except TemplateError as error:
        line = "" if error.line is None else f" line {error.line}:"
        raise StageError(Reason.CONFIG_INVALID, f"{field_name}:{line} {error}") from error
    return text


@dataclass(frozen=True)
class RenderedTurns:
    """A conversation as text, and the character ranges that each assistant turn wrote, by message index.

    `context` are the turns that are not trained.
    """

    text: str
    spans: Mapping[int, Spans]
    context: frozenset[int]

    @property
    def trained(self) -> list[tuple[int, int]]:
        """The character ranges to train on."""
        return [span for index, spans in self.spans.items() if index not in self.context for span in spans]

    @property
    def untrained(self) -> list[tuple[int, int]]:
        """The character ranges of turns that are not trained."""
        return [span for index in self.context for span in self.spans.get(index, ())]


@dataclass(frozen=True)
class ChatRenderer:
    """Renders conversations with the training template, and finds the assistant's turns in them.

    `template` has generation markers; without them, turns are found by rendering each conversation up to their
    beginning and up to their end. `kwargs` are template arguments for every row. `marks_headers`: the marked text may
    begin before the assistant's own text.
    """

    tokenizer: Any
    template: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    marks_headers: bool = False

    def text(self, conversation: Conversation) -> str:
        """`conversation` as text.

        Raises:
            StageError: the template refuses it, or omits part of it.
        """
        text, _ = self._rendered(conversation)
        self._check_shown(conversation, text, {})
        return text

    def turns(self, conversation: Conversation) -> RenderedTurns:
        """`conversation` as text with the character ranges of the assistant's turns, each including its closing token.

        A turn whose thought the template omits is not trained if a later turn is trained: otherwise the model would
        learn to answer without a thought.

        Raises:
            StageError: the template refuses it, omits part of it, or does not show where a turn begins and ends.
        """
        text, marked = self._rendered(conversation)
        spans = self._spans(conversation, text, marked)
        return RenderedTurns(text, spans, self._check_shown(conversation, text, spans))

    def without_duplicate_closers(self, conversation: Conversation) -> Conversation:
        """`conversation` without the tokens at the end of contents that the template adds itself."""
        for index, message in enumerate(conversation.messages):
            token = closing_token(message["content"], self._closers)
            if token is None:
                continue
            bare = message["content"].rstrip().removesuffix(token)
            changed = _with_message(conversation, index, {**message, "content": bare})
            with suppress(TemplateError):
                closed = rf"{re.escape(bare.strip())}\s*{re.escape(token)}"
                if re.search(closed, self._text(changed.messages, changed.template_input)[0]):
                    conversation = changed
        return conversation

    def length(self, conversation: Conversation, count: int, text: str) -> int:
        """Number of characters of `text` that the first `count` messages of `conversation` take up; 0 for no messages.

        Raises:
            StageError: the template refuses them, or renders them differently without the messages that follow.
        """
        if not count:
            return 0
        beginning = Conversation(
            conversation.location,
            conversation.messages[:count],
            template_input=conversation.template_input,
            names=conversation.names,
        )
        prompt, _ = self._rendered(beginning)
        if not text.startswith(prompt):
            raise data_invalid(
                conversation.location,
                "the model's chat template renders the prompt differently when the completion follows, so it does not "
                f"show where the completion begins; {_TEMPLATE_ADVICE}",
            )
        return len(prompt)

    def closed(self, text: str) -> int:
        """Length of `text` up to the last token that closes a turn; its full length if no such token ends it."""
        return self._finder(TemplateInput()).closed(text)

    def description(self) -> list[str]:
        """Limitations of the template, one clause each."""

        def text_of(messages: Messages, tools: Sequence[Mapping[str, Any]] = ()) -> str:
            return self._text(messages, TemplateInput(tuple(tools)))[0]

        return list(describe_template(text_of, self._finder))

    @cached_property
    def _closers(self) -> tuple[str, ...]:
        return tuple(self.tokenizer.get_added_vocab())

    @cached_property
    def _variables(self) -> frozenset[str]:
        return variables_of(self.template)

    @cached_property
    def _prompt(self) -> str:
        return generation_prompt(self.tokenizer, self.template, self.kwargs)

    @cached_property
    def _call_form(self) -> ToolCallFormat:
        return detect_call_format(self.tokenizer, self.template)

    def _spans(self, conversation: Conversation, text: str, marked: Spans) -> dict[int, Spans]:
        turns = [index for index, message in enumerate(conversation.messages) if message["role"] == "assistant"]
        if not has_markers(self.template):
            return {index: [self._find_turn(conversation, index, text)] for index in turns}
        spans = [self._marked_turn(text, start, end) for start, end in marked]
        if len(spans) == len(turns) and not self.marks_headers:
            return {index: [span] for index, span in zip(turns, spans, strict=True)}
        areas = {index: self._find_turn(conversation, index, text) for index in turns}
        return {
            index: [(max(first, start), min(end, last)) for start, end in spans if start < last and end > first]
            for index, (first, last) in areas.items()
        }

    def _find_turn(self, conversation: Conversation, index: int, text: str) -> tuple[int, int]:
        try:
            return self._finder(conversation.template_input).find(conversation.messages, index, text)
        except TurnNotFoundError as error:
            raise data_invalid(
                conversation.location,
                f"the model's chat template does not show where {conversation.message_name(index)}, an assistant turn, "
                "begins and ends; put {% generation %} and {% endgeneration %} around it in the template, "
                "or choose one that has them with model.chatTemplate.name",
            ) from error

    def _finder(self, template_input: TemplateInput) -> TurnFinder:
        def rendered(messages: Messages, *, add_generation_prompt: bool = False) -> str:
            return self._text(messages, template_input, add_generation_prompt=add_generation_prompt)[0]

        return TurnFinder(rendered, self._closers, self._prompt)

    def _marked_turn(self, text: str, start: int, end: int) -> tuple[int, int]:
        """A marked turn, from the end of the generation prompt to the closing token.

        The prompt's trailing white space and the closing token may follow the mark.
        """
        header = self._prompt.rstrip()
        blank = self._prompt[len(header) :]
        if header and text.endswith(header, 0, start) and text.startswith(blank, start):
            start += len(blank)
        stop: str = self.tokenizer.eos_token
        end = end + len(stop) if text.startswith(stop, end) else end
        return start, start + self.closed(text[start:end])

    def _check_shown(self, conversation: Conversation, text: str, spans: Mapping[int, Spans]) -> frozenset[int]:
        """The turns that are not trained.

        Raises:
            StageError: the template omits something other than the thought of an earlier turn.
        """
        parts = {index: "".join(text[start:end] for start, end in spans[index]) for index in spans}
        for index, message in enumerate(conversation.messages):
            hidden = next(hidden_keys(message, parts.get(index, text)), None) or self._ignored_key(
                conversation, index, text
            )
            if hidden is not None:
                raise self._omission_error(conversation, f"{conversation.message_name(index)}.{hidden}")
        hidden = next(hidden_tools(conversation.template_input.tools, text), None)
        template_input = conversation.template_input
        without_tools = replace(conversation, template_input=replace(template_input, tools=()))
        if hidden is None and template_input.tools and self._is_same(without_tools, text):
            hidden = TOOLS
        if hidden is not None:
            raise self._omission_error(conversation, hidden)
        context = set(conversation.context)
        is_last = True
        turns = [index for index, message in enumerate(conversation.messages) if message["role"] == "assistant"]
        for index in (index for index in reversed(turns) if index not in conversation.context):
            key = self._hidden_thought(conversation, index, text, parts.get(index, text))
            if key is not None and is_last:
                raise self._omission_error(conversation, f"{conversation.message_name(index)}.{key}", thought=key)
            if key is not None:
                context.add(index)
            is_last = False
        return frozenset(context)

    def _ignored_key(self, conversation: Conversation, index: int, text: str) -> str | None:
        """A message key whose value is in `text` only by chance: the text is the same without the key."""
        message = conversation.messages[index]
        for key in ("name", "tool_calls"):
            links = key == "name" and message["role"] == "tool"
            bare = {name: value for name, value in message.items() if name != key}
            if key in message and not links and self._is_same(_with_message(conversation, index, bare), text):
                return key
        content = message["content"]
        if content and message["role"] != "assistant" and len(content) < _SHORT_CHARACTERS:
            longer = _with_message(conversation, index, {**message, "content": f"{content} {content}"})
            return "content" if self._is_same(longer, text) else None
        return None

    def _hidden_thought(self, conversation: Conversation, index: int, text: str, part: str) -> str | None:
        """The key of a thought that is missing from `part`, the rendering of the turn in `text`."""
        message = conversation.messages[index]
        bare = without_thought(message)
        key = hidden_thought(message, part)
        if key is not None or bare == message:
            return key
        is_left_out = self._is_same(_with_message(conversation, index, bare), text)
        return next((name for name in THOUGHT_KEYS if name in message), "content") if is_left_out else None

    def _is_same(self, conversation: Conversation, text: str) -> bool:
        try:
            return self._text(conversation.messages, conversation.template_input)[0] == text
        except TemplateError:
            return False

    def _omission_error(self, conversation: Conversation, name: str, thought: str | None = None) -> StageError:
        what = f"the thought in {name}" if thought == "content" else name
        other_keys = [key for key in THOUGHT_KEYS if key != thought and key in self.template]
        if thought in THOUGHT_KEYS and other_keys:
            return data_invalid(
                conversation.location, f"the model's chat template leaves out {what} and reads {one_of(other_keys)}"
            )
        return data_invalid(
            conversation.location,
            f"the model's chat template leaves out {what}; remove it from the row, or {_TEMPLATE_ADVICE}",
        )

    def _rendered(self, conversation: Conversation) -> tuple[str, Spans]:
        for name in conversation.template_input.kwargs:
            if name not in self._variables:
                raise data_invalid(
                    conversation.location, f"{KWARGS}.{name} is not read by the model's chat template; remove it"
                )
        try:
            return self._text(conversation.messages, conversation.template_input)
        except TemplateError as error:
            raise data_invalid(
                conversation.location, f"the model's chat template refuses the conversation: {error}"
            ) from error

    def _text(
        self, messages: Messages, template_input: TemplateInput, *, add_generation_prompt: bool = False
    ) -> tuple[str, Spans]:
        return render(
            self.tokenizer,
            self.template,
            [self._with_call_format(message) if "tool_calls" in message else message for message in messages],
            add_generation_prompt=add_generation_prompt,
            tools=template_input.tools,
            kwargs={**self.kwargs, **template_input.kwargs},
        )

    def _with_call_format(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """A message that calls tools, in the form that the template reads."""
        adapted = {**message, "tool_calls": list(message["tool_calls"])}
        if self._call_form.arguments_are_text:
            adapted["tool_calls"] = [with_arguments_as_text(call) for call in message["tool_calls"]]
        if not message["content"]:
            adapted["content"] = self._call_form.empty_content
        return adapted


def _with_message(conversation: Conversation, index: int, message: Message) -> Conversation:
    return replace(
        conversation, messages=(*conversation.messages[:index], message, *conversation.messages[index + 1 :])
    )


def training_chat(tokenizer: Any, kwargs: Mapping[str, Any] | None = None) -> ChatRenderer:
    """The chat that renders conversations for training.

    Uses the tokenizer's own template if it has markers, else TRL's edition of it (which has markers) if TRL knows it,
    else the tokenizer's own template without markers.

    Raises:
        StageError: the tokenizer has no chat template, a model cannot be trained with it, it does not read one of
            `kwargs`, or the tokenizer cannot map tokens to characters.
    """
    kwargs = kwargs or {}
    _check_tokenizer(tokenizer)
    try:
        own: str = tokenizer.get_chat_template()
    except ValueError as error:
        raise StageError(Reason.CONFIG_INVALID, f"the model's tokenizer: {error}") from error
    problem = ""
    for chat in _candidates(tokenizer, own, kwargs):
        found = _problem(chat)
        if found is None:
            for clause in chat.description():
                logger.info("      the chat template %s", clause)
            return chat
        problem = found
    raise StageError(Reason.CONFIG_INVALID, problem)


def _check_tokenizer(tokenizer: Any) -> None:
    if not tokenizer.chat_template:
        raise StageError(
            Reason.CONFIG_INVALID,
            "the model's tokenizer has no chat template, which messages need; "
            "choose one with model.chatTemplate.name, or use an instruction-tuned model",
        )
    if not tokenizer.is_fast:
        raise StageError(
            Reason.CONFIG_INVALID,
            "the model has no fast tokenizer (tokenizer.json), which messages need; "
            "render the conversations yourself into a text column",
        )


def _candidates(tokenizer: Any, own: str, kwargs: Mapping[str, Any]) -> list[ChatRenderer]:
    """Candidate chats, the best first and the tokenizer's own last."""
    from jinja2 import TemplateError as JinjaError
    from trl import get_training_chat_template

    last = ChatRenderer(tokenizer, own, kwargs)
    if has_markers(own):
        return [last]
    try:
        known: str | None = get_training_chat_template(tokenizer)
    except (ValueError, TypeError, JinjaError):
        known = None  # unknown to TRL
    if known is None:
        return [last]
    return [
        *(ChatRenderer(tokenizer, known, kwargs, marks_headers=marks_headers) for marks_headers in (False, True)),
        last,
    ]


def _problem(chat: ChatRenderer) -> str | None:
    """Why a model cannot be trained with the template of `chat`; None if it can."""
    variables = variables_of(chat.template)
    for name in chat.kwargs:
        if name in RESERVED_KWARGS:
            return f"{_KWARGS_FIELD}.{name} is set by training itself; remove it"
        if name not in variables:
            return f"{_KWARGS_FIELD}.{name} is not read by the model's chat template; remove it"
    try:
        check_template(chat.template, chat.tokenizer, chat.kwargs, marks_headers=chat.marks_headers)
    except TemplateError as error:
        line = "" if error.line is None else f" line {error.line}:"
        return f"the model's chat template:{line} {error}; {_TEMPLATE_ADVICE}"
    return None
