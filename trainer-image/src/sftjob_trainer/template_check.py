"""Whether a model can be trained with a chat template: made-up conversations are rendered and looked at."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sftjob_trainer.survival import hidden_keys, hidden_thought, hidden_tools
from sftjob_trainer.template_rendering import Spans, has_markers, render
from sftjob_trainer.tool_data import TemplateInput, with_arguments_as_text
from sftjob_trainer.turns import (
    Messages,
    TemplateError,
    TurnFinder,
    TurnNotFoundError,
    opening_length,
    shared_beginning,
)

_USER: Final = {"role": "user", "content": "first question"}
_ASSISTANT: Final = {"role": "assistant", "content": "first answer"}
_TALK: Final = (
    _USER,
    _ASSISTANT,
    {"role": "user", "content": "second question"},
    {"role": "assistant", "content": "second answer"},
)
_SYSTEM: Final = {"role": "system", "content": "first instruction"}
_CALL: Final = {"type": "function", "id": "call00001", "function": {"name": "look_up", "arguments": {"city": "Turin"}}}
_TOOL: Final = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Look a city up.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "Its name."}}},
    },
}
_CALLING: Final = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
_TOOL_TALK: Final = (
    _USER,
    _CALLING,
    {"role": "tool", "tool_call_id": "call00001", "name": "look_up", "content": "tool result"},
    _ASSISTANT,
)
_THINKING: Final = {"role": "assistant", "content": "<think>\nfirst thought\n</think>\n\nfirst answer"}

_DIFFERENT_BEGINNING: Final = (
    "a conversation that goes on is rendered differently from its beginning, "
    "so what a model is trained on would not be what it sees later"
)
_DIFFERENT_PROMPT: Final = (
    "a conversation that ends with a question and add_generation_prompt is not rendered as the beginning of "
    "one with an answer, so what a model is trained on would not be what it sees later"
)
_WRONG_TEXT: Final = (
    "what follows the generation prompt is not what the assistant writes; open the assistant's turn with "
    "add_generation_prompt as it is opened in a conversation, "
    "and put {% generation %} and {% endgeneration %} around the content and the token that closes it"
)
_GOES_ON: Final = (
    "it writes more than the token that closes the turn after the last answer, so a model would be trained to write "
    "that too; put what opens the assistant's turn between {% if add_generation_prompt %} and {% endif %}, "
    "or {% generation %} and {% endgeneration %} around the content and the token that closes it"
)


@dataclass(frozen=True, slots=True)
class CallForm:
    """How a template reads a tool call: its arguments as an object or JSON text, and the content beside it."""

    arguments_are_text: bool
    empty_content: str | None


def check_template(
    template: str, tokenizer: Any, kwargs: Mapping[str, Any] | None = None, *, marks_headers: bool = False
) -> None:
    """See that `template` shows what it should of a conversation, and where the assistant's turns are.

    A generation prompt may open a thought, and an earlier turn may be rendered without one: the turn then begins after
    the header that prompt and turn share. With `marks_headers` the marks may begin elsewhere.

    Raises:
        TemplateError: it does not compile or render, leaves something out, marks the wrong text, or renders a
            conversation so that its beginning is not what a model sees when it has to answer.
    """
    text, marked = render(tokenizer, template, _TALK, kwargs=kwargs)
    for message in _TALK:
        if message["content"] not in text:
            raise TemplateError(f"it leaves out what the {message['role']} writes", None)
    headers = [_header(tokenizer, template, text, index, kwargs).rstrip() for index in (1, 3)]
    if has_markers(template):
        opened = [text[:start].rstrip() for start, _ in marked]
        answers = [_TALK[index]["content"] for index in (1, 3)]
        fits = opened == headers or (marks_headers and len(opened) == len(headers))
        tokens = tuple(tokenizer.get_added_vocab())
        if not (
            fits
            and all(_is_turn(text[start:end], said, tokens) for said, (start, end) in zip(answers, marked, strict=True))
        ):
            raise TemplateError(_WRONG_TEXT, _line_of(template, r"\{%-?\s*generation\b"))
    elif _goes_on(text, tuple(tokenizer.get_added_vocab())):
        raise TemplateError(_GOES_ON, None)
    for what, messages, tools in _variants():
        _check_marks(tokenizer, template, what, messages, tools, kwargs)


def describe_template(text_of: Callable[..., str], finder: Callable[[TemplateInput], TurnFinder]) -> Iterator[str]:
    """What a template does not do, one clause each. `text_of` renders messages and tools, `finder` is for a row."""
    for what, messages, tools in _variants():
        try:
            text = text_of(messages, tools)
        except TemplateError:
            yield f"refuses {what}"
            continue
        if any(hidden_tools(tools, text)) or any(any(hidden_keys(message, text)) for message in messages):
            yield f"leaves out {what}"
        elif not _finds(finder(TemplateInput(tuple(tools))), messages, text):
            yield f"does not show where turns are in {what}"
    thinking = _thoughts_left_out(text_of)
    if thinking is not None:
        yield thinking


def generation_prompt(tokenizer: Any, template: str, kwargs: Mapping[str, Any] | None = None) -> str:
    """The text that opens the assistant's turn; empty where the template has none.

    Raises:
        TemplateError: the template does not render a question.
    """
    question: Messages = [_USER]
    asked = render(tokenizer, template, question, add_generation_prompt=True, kwargs=kwargs)[0]
    alone = render(tokenizer, template, question, kwargs=kwargs)[0]
    return asked[len(alone) :] if asked.startswith(alone) else ""


def call_form(tokenizer: Any, template: str) -> CallForm:
    """The first form in which `template` shows a tool call; the usual one if it shows none."""
    forms = [CallForm(text, content) for text in (False, True) for content in ("", None)]
    return next((form for form in forms if _shows_call(tokenizer, template, form)), forms[0])


def _shows_call(tokenizer: Any, template: str, form: CallForm) -> bool:
    """Whether a call is shown, with its arguments as JSON and not as a text in JSON."""
    call = with_arguments_as_text(_CALL) if form.arguments_are_text else _CALL
    messages: Messages = [_USER, {"role": "assistant", "content": form.empty_content, "tool_calls": [call]}]
    try:
        text = render(tokenizer, template, messages, tools=[_TOOL])[0]
    except TemplateError:
        return False
    return "look_up" in text and "Turin" in text and '\\"' not in text and "None" not in text


def _variants() -> Iterator[tuple[str, Messages, Sequence[Mapping[str, Any]]]]:
    yield "system messages", (_SYSTEM, *_TALK), ()
    yield "conversations that the assistant begins", ({**_ASSISTANT, "content": "opening answer"}, *_TALK), ()
    yield "tools and calls of them", _TOOL_TALK, (_TOOL,)


def _header(tokenizer: Any, template: str, text: str, index: int, kwargs: Mapping[str, Any] | None) -> str:
    """What of `text` goes before the answer at `index` and is in the generation prompt too."""
    asked = _TALK[:index]
    prompt = render(tokenizer, template, asked, add_generation_prompt=True, kwargs=kwargs)[0]
    at = text.find(_TALK[index]["content"])
    if asked[-1]["content"] not in shared_beginning(prompt, text[:at]):
        raise TemplateError(_DIFFERENT_BEGINNING, None)
    length = opening_length(prompt, text[:at])
    if length is None:
        raise TemplateError(_DIFFERENT_PROMPT, _line_of(template, r"add_generation_prompt"))
    header = text[:length]
    if text[length:at].strip() and prompt == render(tokenizer, template, asked, kwargs=kwargs)[0]:
        raise TemplateError(_WRONG_TEXT, None)
    return header


def _goes_on(text: str, tokens: tuple[str, ...]) -> bool:
    """Whether `text`, the rendered _TALK, has more after its last turn than the first of `tokens` there.

    Where none is there, more is what opens another turn of the assistant.
    """
    _, first, question, last = (message["content"] for message in _TALK)
    tail = text.partition(last)[2]
    if not _is_turn(last + tail, last, tokens):
        return True
    header = text.partition(question)[2].partition(last)[0].strip()
    after_the_first = text.partition(first)[2].partition(question)[0]
    return bool(header) and tail.rstrip().endswith(header) and header not in after_the_first


def _check_marks(
    tokenizer: Any,
    template: str,
    what: str,
    messages: Messages,
    tools: Sequence[Mapping[str, Any]],
    kwargs: Mapping[str, Any] | None,
) -> None:
    """See that nothing but the assistant's words are marked in `messages`, if the template renders them at all."""
    if not has_markers(template):
        return
    try:
        text, marked = render(tokenizer, template, messages, tools=tools, kwargs=kwargs)
    except TemplateError:
        return
    for message in messages:
        said, is_own = message["content"], message["role"] == "assistant"
        if said and said in text and _is_marked(text, marked, said) != is_own:
            problem = f"with {what}, it {'does not mark' if is_own else 'marks'} what the {message['role']} writes"
            raise TemplateError(problem, _line_of(template, r"\{%-?\s*generation\b"))


def _is_marked(text: str, marked: Spans, said: str) -> bool:
    return any(said in text[start:end] for start, end in marked)


def _is_turn(marked: str, said: str, tokens: tuple[str, ...]) -> bool:
    """Whether a marked text holds `said`, and no words after the first of `tokens` behind it, which closes the turn."""
    _, found, tail = marked.partition(said)
    closers = [token for token in tokens if token in tail]
    if not closers:
        return bool(found)
    after = tail[min(tail.index(token) for token in closers) :]
    for token in sorted(closers, key=len, reverse=True):
        after = after.replace(token, "")
    return not after.strip()


def _finds(finder: TurnFinder, messages: Messages, text: str) -> bool:
    try:
        for index, message in enumerate(messages):
            if message["role"] == "assistant":
                finder.find(messages, index, text)
    except TurnNotFoundError:
        return False
    return True


def _thoughts_left_out(text_of: Callable[..., str]) -> str | None:
    talk = (_USER, _THINKING, _TALK[2], {**_THINKING, "content": _THINKING["content"].replace("first", "second")})
    try:
        text = text_of(talk)
    except TemplateError:
        return "refuses thoughts in <think>"
    first, last = (hidden_thought(talk[index], text) is None for index in (1, 3))
    if first:
        return None
    return "leaves out thoughts of earlier turns" if last else "leaves out thoughts in <think>"


def _line_of(template: str, pattern: str) -> int | None:
    found = re.search(pattern, template)
    return None if found is None else template.count("\n", 0, found.start()) + 1
