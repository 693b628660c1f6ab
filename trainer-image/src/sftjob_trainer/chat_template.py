"""Chat templates: which one a run uses, what it makes of conversations, and which of it the assistant wrote."""

import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Final

from sftjob_contract.config import ChatTemplate
from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure, data_invalid
from sftjob_trainer.messages import THOUGHT_KEYS, Message
from sftjob_trainer.shapes import Conversation
from sftjob_trainer.special_tokens import closing_token
from sftjob_trainer.survival import hidden_keys, hidden_thought, hidden_tools
from sftjob_trainer.template_check import (
    CallForm,
    call_form,
    check_template,
    describe_template,
    generation_prompt,
)
from sftjob_trainer.template_rendering import Spans, has_markers, render, variables_of
from sftjob_trainer.tool_data import KWARGS, RESERVED_KWARGS, TOOLS, TemplateInput, with_arguments_as_text
from sftjob_trainer.turns import Messages, TemplateError, TurnFinder, TurnNotFoundError, without_thought
from sftjob_trainer.wording import either

logger = logging.getLogger(__name__)

_KWARGS_FIELD: Final = "model.chatTemplateKwargs"
_SHORT_CHARACTERS: Final = 24
"""A content that is shorter can be somewhere in a text by chance."""
_WAY_OUT: Final = "choose another one with model.chatTemplate.name, or write your own into model.chatTemplate.jinja"


def given_template(wanted: ChatTemplate, tokenizer: Any, kwargs: Mapping[str, Any] | None = None) -> str:
    """The text of the template that a run config asks for.

    A template of ours opens with the beginning-of-sequence token where the tokenizer itself begins every text with it.

    Raises:
        Failure: it can not be read, or a model can not be trained with it.
    """
    if wanted.name is not None:
        template = resources.files("sftjob_trainer").joinpath("templates", f"{wanted.name}.jinja")
        begins = _begins_with_bos(tokenizer)
        return ("{{- bos_token -}}\n" if begins else "") + template.read_text(encoding="utf-8")
    field_name = "model.chatTemplate.jinja" if wanted.file is None else "model.chatTemplate.configMapKeyRef"
    text = wanted.jinja or ""
    if wanted.file is not None:
        try:
            text = Path(wanted.file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise Failure(Reason.CONFIG_INVALID, f"{field_name}: {wanted.file} can not be read: {error}") from error
    try:
        check_template(text, tokenizer, kwargs)
    except TemplateError as error:
        line = "" if error.line is None else f" line {error.line}:"
        raise Failure(Reason.CONFIG_INVALID, f"{field_name}:{line} {error}") from error
    return text


@dataclass(frozen=True)
class Turns:
    """A conversation as text, and the characters of it that each assistant turn wrote, by the index of its message.

    `context` are the turns that are not trained.
    """

    text: str
    spans: Mapping[int, Spans]
    context: frozenset[int]

    @property
    def trained(self) -> list[tuple[int, int]]:
        """The characters to train on."""
        return [span for index, spans in self.spans.items() if index not in self.context for span in spans]

    @property
    def untrained(self) -> list[tuple[int, int]]:
        """The characters of turns that are not trained."""
        return [span for index in self.context for span in self.spans.get(index, ())]


@dataclass(frozen=True)
class Chat:
    """Renders conversations with the template to train with, and finds the assistant's turns in them.

    `template` has generation markers, or else the turns are found by rendering each conversation up to their beginning
    and up to their end. `kwargs` are arguments of the template for every row. `marks_headers`: what the template marks
    may begin before the assistant's own text.
    """

    tokenizer: Any
    template: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    marks_headers: bool = False

    def text(self, talk: Conversation) -> str:
        """`talk` as text.

        Raises:
            Failure: the template refuses it, or leaves something of it out.
        """
        text, _ = self._rendered(talk)
        self._check_shown(talk, text, {})
        return text

    def turns(self, talk: Conversation) -> Turns:
        """`talk` as text, and what the assistant wrote in it, each turn with the token that closes it.

        A turn whose thought the template leaves out is not trained if a later one is trained: a model that learned it
        would learn to answer without a thought.

        Raises:
            Failure: the template refuses it, leaves something of it out, or does not show where a turn begins and ends.
        """
        text, marked = self._rendered(talk)
        spans = self._spans(talk, text, marked)
        return Turns(text, spans, self._check_shown(talk, text, spans))

    def once_closed(self, talk: Conversation) -> Conversation:
        """`talk` without the tokens at the end of contents that the template writes there too."""
        for index, message in enumerate(talk.messages):
            token = closing_token(message["content"], self._closers)
            if token is None:
                continue
            bare = message["content"].rstrip().removesuffix(token)
            changed = _with_message(talk, index, {**message, "content": bare})
            with suppress(TemplateError):
                closed = rf"{re.escape(bare.strip())}\s*{re.escape(token)}"
                if re.search(closed, self._text(changed.messages, changed.given)[0]):
                    talk = changed
        return talk

    def length(self, talk: Conversation, count: int, text: str) -> int:
        """How much of `text` the first `count` messages of `talk` are, 0 for none.

        Raises:
            Failure: the template refuses them, or renders them differently when they are all there is.
        """
        if not count:
            return 0
        beginning = Conversation(talk.place, talk.messages[:count], given=talk.given, names=talk.names)
        prompt, _ = self._rendered(beginning)
        if not text.startswith(prompt):
            raise data_invalid(
                talk.place,
                "the model's chat template renders the prompt differently when the completion follows, so it does not "
                f"show where the completion begins; {_WAY_OUT}",
            )
        return len(prompt)

    def closed(self, text: str) -> int:
        """How much of `text` there is up to the last token that closes a turn, all of it if none is at the end."""
        return self._finder(TemplateInput()).closed(text)

    def description(self) -> list[str]:
        """What the template does not do, one clause each."""

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
    def _call_form(self) -> CallForm:
        return call_form(self.tokenizer, self.template)

    def _spans(self, talk: Conversation, text: str, marked: Spans) -> dict[int, Spans]:
        turns = [index for index, message in enumerate(talk.messages) if message["role"] == "assistant"]
        if not has_markers(self.template):
            return {index: [self._found(talk, index, text)] for index in turns}
        spans = [self._marked_turn(text, start, end) for start, end in marked]
        if len(spans) == len(turns) and not self.marks_headers:
            return {index: [span] for index, span in zip(turns, spans, strict=True)}
        areas = {index: self._found(talk, index, text) for index in turns}
        return {
            index: [(max(first, start), min(end, last)) for start, end in spans if start < last and end > first]
            for index, (first, last) in areas.items()
        }

    def _found(self, talk: Conversation, index: int, text: str) -> tuple[int, int]:
        try:
            return self._finder(talk.given).find(talk.messages, index, text)
        except TurnNotFoundError as error:
            raise data_invalid(
                talk.place,
                f"the model's chat template does not show where {talk.name(index)}, an assistant turn, begins and "
                "ends; put {% generation %} and {% endgeneration %} around it in the template, "
                "or choose one that has them with model.chatTemplate.name",
            ) from error

    def _finder(self, given: TemplateInput) -> TurnFinder:
        def rendered(messages: Messages, *, add_generation_prompt: bool = False) -> str:
            return self._text(messages, given, add_generation_prompt=add_generation_prompt)[0]

        return TurnFinder(rendered, self._closers, self._prompt)

    def _marked_turn(self, text: str, start: int, end: int) -> tuple[int, int]:
        """A marked turn from the end of the generation prompt to the token that closes it.

        The white space that the prompt ends with may stand behind the mark, and so may that token.
        """
        header = self._prompt.rstrip()
        blank = self._prompt[len(header) :]
        if header and text.endswith(header, 0, start) and text.startswith(blank, start):
            start += len(blank)
        stop: str = self.tokenizer.eos_token
        end = end + len(stop) if text.startswith(stop, end) else end
        return start, start + self.closed(text[start:end])

    def _check_shown(self, talk: Conversation, text: str, spans: Mapping[int, Spans]) -> frozenset[int]:
        """The turns that are not trained.

        Raises:
            Failure: the template leaves out what is not a thought of an earlier turn.
        """
        parts = {index: "".join(text[start:end] for start, end in spans[index]) for index in spans}
        for index, message in enumerate(talk.messages):
            hidden = next(hidden_keys(message, parts.get(index, text)), None) or self._ignored_key(talk, index, text)
            if hidden is not None:
                raise self._left_out(talk, f"{talk.name(index)}.{hidden}")
        hidden = next(hidden_tools(talk.given.tools, text), None)
        if hidden is None and talk.given.tools and self._is_same(replace(talk, given=_without_tools(talk)), text):
            hidden = TOOLS
        if hidden is not None:
            raise self._left_out(talk, hidden)
        context = set(talk.context)
        is_last = True
        turns = [index for index, message in enumerate(talk.messages) if message["role"] == "assistant"]
        for index in (index for index in reversed(turns) if index not in talk.context):
            key = self._hidden_thought(talk, index, text, parts.get(index, text))
            if key is not None and is_last:
                raise self._left_out(talk, f"{talk.name(index)}.{key}", thought=key)
            if key is not None:
                context.add(index)
            is_last = False
        return frozenset(context)

    def _ignored_key(self, talk: Conversation, index: int, text: str) -> str | None:
        """A key of a message whose value is in `text` by chance alone: without it the text is the same."""
        message = talk.messages[index]
        for key in ("name", "tool_calls"):
            links = key == "name" and message["role"] == "tool"
            bare = {name: value for name, value in message.items() if name != key}
            if key in message and not links and self._is_same(_with_message(talk, index, bare), text):
                return key
        content = message["content"]
        if content and message["role"] != "assistant" and len(content) < _SHORT_CHARACTERS:
            longer = _with_message(talk, index, {**message, "content": f"{content} {content}"})
            return "content" if self._is_same(longer, text) else None
        return None

    def _hidden_thought(self, talk: Conversation, index: int, text: str, part: str) -> str | None:
        """The key of a thought that is not in `part`, what `text` shows of the turn."""
        message = talk.messages[index]
        bare = without_thought(message)
        key = hidden_thought(message, part)
        if key is not None or bare == message:
            return key
        is_left_out = self._is_same(_with_message(talk, index, bare), text)
        return next((name for name in THOUGHT_KEYS if name in message), "content") if is_left_out else None

    def _is_same(self, talk: Conversation, text: str) -> bool:
        try:
            return self._text(talk.messages, talk.given)[0] == text
        except TemplateError:
            return False

    def _left_out(self, talk: Conversation, name: str, thought: str | None = None) -> Failure:
        what = f"the thought in {name}" if thought == "content" else name
        others = [key for key in THOUGHT_KEYS if key != thought and key in self.template]
        if thought in THOUGHT_KEYS and others:
            return data_invalid(talk.place, f"the model's chat template leaves out {what} and reads {either(others)}")
        return data_invalid(
            talk.place, f"the model's chat template leaves out {what}; remove it from the row, or {_WAY_OUT}"
        )

    def _rendered(self, talk: Conversation) -> tuple[str, Spans]:
        for name in talk.given.kwargs:
            if name not in self._variables:
                raise data_invalid(talk.place, f"{KWARGS}.{name} is not read by the model's chat template; remove it")
        try:
            return self._text(talk.messages, talk.given)
        except TemplateError as error:
            raise data_invalid(talk.place, f"the model's chat template refuses the conversation: {error}") from error

    def _text(
        self, messages: Messages, given: TemplateInput, *, add_generation_prompt: bool = False
    ) -> tuple[str, Spans]:
        return render(
            self.tokenizer,
            self.template,
            [self._adapted(message) if "tool_calls" in message else message for message in messages],
            add_generation_prompt=add_generation_prompt,
            tools=given.tools,
            kwargs={**self.kwargs, **given.kwargs},
        )

    def _adapted(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """A message that calls tools, in the form that the template reads."""
        adapted = {**message, "tool_calls": list(message["tool_calls"])}
        if self._call_form.arguments_are_text:
            adapted["tool_calls"] = [with_arguments_as_text(call) for call in message["tool_calls"]]
        if not message["content"]:
            adapted["content"] = self._call_form.empty_content
        return adapted


def _with_message(talk: Conversation, index: int, message: Message) -> Conversation:
    return replace(talk, messages=(*talk.messages[:index], message, *talk.messages[index + 1 :]))


def _without_tools(talk: Conversation) -> TemplateInput:
    return replace(talk.given, tools=())


def training_chat(tokenizer: Any, kwargs: Mapping[str, Any] | None = None) -> Chat:
    """How conversations are rendered for training.

    The template is the tokenizer's own when that has markers, else TRL's edition of it when TRL knows it, which has
    them, else the tokenizer's own without.

    Raises:
        Failure: the tokenizer has no chat template, a model can not be trained with it, it does not read one of
            `kwargs`, or the tokenizer can not tell which tokens a piece of text became.
    """
    kwargs = kwargs or {}
    _check_tokenizer(tokenizer)
    try:
        own: str = tokenizer.get_chat_template()
    except ValueError as error:
        raise Failure(Reason.CONFIG_INVALID, f"the model's tokenizer: {error}") from error
    problem = ""
    for chat in _editions(tokenizer, own, kwargs):
        found = _problem(chat)
        if found is None:
            for clause in chat.description():
                logger.info("      the chat template %s", clause)
            return chat
        problem = found
    raise Failure(Reason.CONFIG_INVALID, problem)


def _check_tokenizer(tokenizer: Any) -> None:
    if not tokenizer.chat_template:
        raise Failure(
            Reason.CONFIG_INVALID,
            "the model's tokenizer has no chat template, which messages need; "
            "choose one with model.chatTemplate.name, or use an instruction-tuned model",
        )
    if not tokenizer.is_fast:
        raise Failure(
            Reason.CONFIG_INVALID,
            "the model has no fast tokenizer (tokenizer.json), which messages need; "
            "render the conversations yourself into a text column",
        )


def _editions(tokenizer: Any, own: str, kwargs: Mapping[str, Any]) -> list[Chat]:
    """What to try, the best first, the tokenizer's own last."""
    from jinja2 import TemplateError as JinjaError
    from trl import get_training_chat_template

    last = Chat(tokenizer, own, kwargs)
    if has_markers(own):
        return [last]
    try:
        known: str | None = get_training_chat_template(tokenizer)
    except (ValueError, TypeError, JinjaError):
        known = None  # not one that TRL knows
    if known is None:
        return [last]
    return [*(Chat(tokenizer, known, kwargs, marks_headers=loose) for loose in (False, True)), last]


def _problem(chat: Chat) -> str | None:
    """Why a model can not be trained with the template of `chat`, None if it can."""
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
        return f"the model's chat template:{line} {error}; {_WAY_OUT}"
    return None


def _begins_with_bos(tokenizer: Any) -> bool:
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
