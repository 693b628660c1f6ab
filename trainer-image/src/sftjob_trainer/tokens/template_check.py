"""Check that a model can be trained with a chat template, by rendering test conversations."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sftjob_trainer.rows.tool_data import TemplateInput, with_arguments_as_text
from sftjob_trainer.tokens.template_coverage import hidden_keys, hidden_thought, hidden_tools
from sftjob_trainer.tokens.template_rendering import has_markers, render
from sftjob_trainer.tokens.turns import (
    Messages,
    TemplateError,
    TurnFinder,
    TurnNotFoundError,
    common_prefix,
    opening_length,
)

_USER: Final = {"role": "user", "content": "first question"}
_ASSISTANT: Final = {"role": "assistant", "content": "first answer"}
_CONVERSATION: Final = (
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
_TOOL_CONVERSATION: Final = (
    _USER,
    _CALLING,
    {"role": "tool", "tool_call_id": "call00001", "name": "look_up", "content": "tool result"},
    _ASSISTANT,
)
_THINKING: Final = {"role": "assistant", "content": "<think>\nfirst thought\n</think>\n\nfirst answer"}

_DIFFERENT_BEGINNING: Final = (
    "a longer conversation is rendered differently from its beginning, "
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
_CONTINUES_AFTER_END: Final = (
    "it writes more than the token that closes the turn after the last answer, so a model would be trained to write "
    "that too; put what opens the assistant's turn between {% if add_generation_prompt %} and {% endif %}, "
    "or {% generation %} and {% endgeneration %} around the content and the token that closes it"
)


@dataclass(frozen=True, slots=True)
class ToolCallFormat:
    """How a template reads a tool call: its arguments as an object or JSON text, and the content next to it."""

    arguments_are_text: bool
    empty_content: str | None


def check_template(
    template: str, tokenizer: Any, kwargs: Mapping[str, Any] | None = None, *, marks_headers: bool = False
) -> None:
    """Check that `template` shows the required parts of a conversation, and where the assistant's turns are.

    A generation prompt may open a thought, and an earlier turn may be rendered without one: the turn then starts after
    the header that prompt and turn share. With `marks_headers`, the marks may start elsewhere.

    Raises:
        TemplateError: the template does not compile or render, omits something, marks the wrong text, or renders a
            conversation whose beginning differs from what a model sees when it has to answer.
    """
    text, marked = render(tokenizer, template, _CONVERSATION, kwargs=kwargs)
    for message in _CONVERSATION:
        if message["content"] not in text:
            raise TemplateError(f"it leaves out what the {message['role']} writes", None)
    headers = [_header(tokenizer, template, text, index, kwargs).rstrip() for index in (1, 3)]
    if has_markers(template):
        opened = [text[:start].rstrip() for start, _ in marked]
        answers = [_CONVERSATION[index]["content"] for index in (1, 3)]
        fits = opened == headers or (marks_headers and len(opened) == len(headers))
        tokens = tuple(tokenizer.get_added_vocab())
        if not (
            fits
            and all(
                _is_turn(text[start:end], expected, tokens)
                for expected, (start, end) in zip(answers, marked, strict=True)
            )
        ):
            raise TemplateError(_WRONG_TEXT, _line_of(template, r"\{%-?\s*generation\b"))
    elif _continues_after_end(text, tuple(tokenizer.get_added_vocab())):
        raise TemplateError(_CONTINUES_AFTER_END, None)
    for subject, messages, tools in _variants():
        _check_marks(tokenizer, template, subject, messages, tools, kwargs)


def describe_template(text_of: Callable[..., str], finder: Callable[[TemplateInput], TurnFinder]) -> Iterator[str]:
    """Limitations of a template, one clause each. `text_of` renders messages and tools, `finder` is for a row."""
    for subject, messages, tools in _variants():
        try:
            text = text_of(messages, tools)
        except TemplateError:
            yield f"refuses {subject}"
            continue
        if any(hidden_tools(tools, text)) or any(any(hidden_keys(message, text)) for message in messages):
            yield f"leaves out {subject}"
        elif not _finds(finder(TemplateInput(tuple(tools))), messages, text):
            yield f"does not show where turns are in {subject}"
    thinking = _omitted_thoughts(text_of)
    if thinking is not None:
        yield thinking


def generation_prompt(tokenizer: Any, template: str, kwargs: Mapping[str, Any] | None = None) -> str:
    """The text that opens the assistant's turn; empty if the template has none.

    Raises:
        TemplateError: the template does not render a question.
    """
    question: Messages = [_USER]
    question_turns = render(tokenizer, template, question, add_generation_prompt=True, kwargs=kwargs)[0]
    alone = render(tokenizer, template, question, kwargs=kwargs)[0]
    return question_turns[len(alone) :] if question_turns.startswith(alone) else ""


def detect_call_format(tokenizer: Any, template: str) -> ToolCallFormat:
    """The first form in which `template` shows a tool call; the usual one if it shows none."""
    forms = [ToolCallFormat(text, content) for text in (False, True) for content in ("", None)]
    return next((form for form in forms if _renders_call(tokenizer, template, form)), forms[0])


def _renders_call(tokenizer: Any, template: str, form: ToolCallFormat) -> bool:
    """Whether a call is shown, with its arguments as JSON and not as a JSON string."""
    call = with_arguments_as_text(_CALL) if form.arguments_are_text else _CALL
    messages: Messages = [_USER, {"role": "assistant", "content": form.empty_content, "tool_calls": [call]}]
    try:
        text = render(tokenizer, template, messages, tools=[_TOOL])[0]
    except TemplateError:
        return False
    return "look_up" in text and "Turin" in text and '\\"' not in text and "None" not in text


def _variants() -> Iterator[tuple[str, Messages, Sequence[Mapping[str, Any]]]]:
    yield "system messages", (_SYSTEM, *_CONVERSATION), ()
    yield "conversations that the assistant begins", ({**_ASSISTANT, "content": "opening answer"}, *_CONVERSATION), ()
    yield "tools and calls of them", _TOOL_CONVERSATION, (_TOOL,)


def _header(tokenizer: Any, template: str, text: str, index: int, kwargs: Mapping[str, Any] | None) -> str:
    """The part of `text` before the answer at `index` that is also in the generation prompt."""
    question_turns = _CONVERSATION[:index]
    prompt = render(tokenizer, template, question_turns, add_generation_prompt=True, kwargs=kwargs)[0]
    start = text.find(_CONVERSATION[index]["content"])
    if question_turns[-1]["content"] not in common_prefix(prompt, text[:start]):
        raise TemplateError(_DIFFERENT_BEGINNING, None)
    length = opening_length(prompt, text[:start])
    if length is None:
        raise TemplateError(_DIFFERENT_PROMPT, _line_of(template, r"add_generation_prompt"))
    header = text[:length]
    if text[length:start].strip() and prompt == render(tokenizer, template, question_turns, kwargs=kwargs)[0]:
        raise TemplateError(_WRONG_TEXT, None)
    return header


def _continues_after_end(text: str, tokens: tuple[str, ...]) -> bool:
    """Whether `text`, the rendered _TALK, continues after its last turn beyond the first of `tokens` there.

    Without such a token, only the opening of another assistant turn counts.
    """
    _, first, question, last = (message["content"] for message in _CONVERSATION)
    tail = text.partition(last)[2]
    if not _is_turn(last + tail, last, tokens):
        return True
    header = text.partition(question)[2].partition(last)[0].strip()
    after_the_first = text.partition(first)[2].partition(question)[0]
    return bool(header) and tail.rstrip().endswith(header) and header not in after_the_first


def _check_marks(
    tokenizer: Any,
    template: str,
    subject: str,
    messages: Messages,
    tools: Sequence[Mapping[str, Any]],
    kwargs: Mapping[str, Any] | None,
) -> None:
    """Check that only the assistant's words are marked in `messages`, if the template renders them at all."""
    if not has_markers(template):
        return
    try:
        text, marked = render(tokenizer, template, messages, tools=tools, kwargs=kwargs)
    except TemplateError:
        return
    for message in messages:
        expected, is_assistant = message["content"], message["role"] == "assistant"
        if expected and expected in text and any(expected in text[start:end] for start, end in marked) != is_assistant:
            problem = (
                f"with {subject}, it {'does not mark' if is_assistant else 'marks'} what the {message['role']} writes"
            )
            raise TemplateError(problem, _line_of(template, r"\{%-?\s*generation\b"))


def _is_turn(marked: str, expected: str, tokens: tuple[str, ...]) -> bool:
    """Whether a marked text contains `expected`, and nothing after its closing token, the first of `tokens` there."""
    _, found, tail = marked.partition(expected)
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


def _omitted_thoughts(text_of: Callable[..., str]) -> str | None:
    conversation = (
        _USER,
        _THINKING,
        _CONVERSATION[2],
        {**_THINKING, "content": _THINKING["content"].replace("first", "second")},
    )
    try:
        text = text_of(conversation)
    except TemplateError:
        return "refuses thoughts in <think>"
    first, last = (hidden_thought(conversation[index], text) is None for index in (1, 3))
    if first:
        return None
    return "leaves out thoughts of earlier turns" if last else "leaves out thoughts in <think>"


def _line_of(template: str, pattern: str) -> int | None:
    found = re.search(pattern, template)
    return None if found is None else template.count("\n", 0, found.start()) + 1
