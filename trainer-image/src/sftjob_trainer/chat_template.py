"""Chat templates: which one a run uses, whether a model can be trained with it, and what it makes of messages."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

from sftjob_contract.config import ChatTemplate
from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure

Messages = Sequence[Mapping[str, str]]

Spans = Sequence[tuple[int, int]]
"""Half-open ranges of characters."""

_GENERATION: Final = re.compile(r"(\{%-?\s*)(generation|endgeneration)(\s*-?%\})")
_PLAIN: Final = {"generation": "if true", "endgeneration": "endif"}
_PROBE: Final = (
    {"role": "user", "content": "first question"},
    {"role": "assistant", "content": "first answer"},
    {"role": "user", "content": "second question"},
    {"role": "assistant", "content": "second answer"},
)


class TemplateError(Exception):
    """A template can not be read, or refuses what it is given. `line` is where, when that is known."""

    def __init__(self, problem: str, line: int | None) -> None:
        super().__init__(problem)
        self.line = line


def given_template(wanted: ChatTemplate, tokenizer: Any) -> str:
    """The text of the template that a run config asks for.

    A template of ours opens with the beginning-of-sequence token where the tokenizer itself begins every text with it.

    Raises:
        Failure: it can not be read, or a model can not be trained with it.
    """
    if wanted.name is not None:
        template = resources.files("sftjob_trainer").joinpath("templates", f"{wanted.name}.jinja")
        begins = _begins_with_bos(tokenizer)
        return ("{{- bos_token -}}\n" if begins else "") + template.read_text(encoding="utf-8")
    field = "model.chatTemplate.jinja" if wanted.file is None else "model.chatTemplate.configMapKeyRef"
    text = wanted.jinja or ""
    if wanted.file is not None:
        try:
            text = Path(wanted.file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise Failure(Reason.CONFIG_INVALID, f"{field}: {wanted.file} can not be read: {error}") from error
    try:
        check_template(text, tokenizer)
    except TemplateError as error:
        line = "" if error.line is None else f" line {error.line}:"
        raise Failure(Reason.CONFIG_INVALID, f"{field}:{line} {error}") from error
    return text


def check_template(template: str, tokenizer: Any) -> None:
    """See that `template` shows what it should of a conversation, and marks what the assistant writes.

    Raises:
        TemplateError: it does not compile or render, leaves something out, marks the wrong text, or renders a
            conversation so that its beginning is not what a model sees when it has to answer.
    """
    text, marked = render(tokenizer, template, _PROBE)
    for message in _PROBE:
        if message["content"] not in text:
            raise TemplateError(f"it leaves out what the {message['role']} writes", None)
    prompts = [render(tokenizer, template, _PROBE[:count], add_generation_prompt=True)[0] for count in (1, 3)]
    ends = [render(tokenizer, template, _PROBE[:count])[0] for count in (2, 4)]
    if not (text.startswith(ends[0]) and prompts[1].startswith(ends[0])):
        raise TemplateError(
            "a conversation that goes on is rendered differently from its beginning, "
            "so what a model is trained on would not be what it sees later",
            None,
        )
    if not all(map(str.startswith, ends, prompts)):
        raise TemplateError(
            "a conversation that ends with a question and add_generation_prompt is not rendered as the beginning of "
            "one with an answer, so what a model is trained on would not be what it sees later",
            _line_of(template, r"add_generation_prompt"),
        )
    if not _shows_answers(text, marked if has_markers(template) else None, prompts, ends):
        raise TemplateError(
            "what follows the generation prompt is not what the assistant writes; open the assistant's turn with "
            "add_generation_prompt as it is opened in a conversation, "
            "and put {% generation %} and {% endgeneration %} around the content and the token that closes it",
            _line_of(template, r"\{%-?\s*generation\b"),
        )


def has_markers(template: str) -> bool:
    """Whether `template` has `{% generation %}` around what the assistant writes."""
    return _GENERATION.search(template) is not None


def without_markers(template: str) -> str:
    """`template` in plain Jinja, which renders the same.

    Only transformers knows `{% generation %}`: llama.cpp's Python bindings, minijinja and others refuse the template.
    """
    return _GENERATION.sub(lambda found: found[1] + _PLAIN[found[2]] + found[3], template)


def render(
    tokenizer: Any, template: str, messages: Messages, *, add_generation_prompt: bool = False
) -> tuple[str, Spans]:
    """`messages` as text, and what of it lies between generation markers. As in transformers, templates are sandboxed.

    Raises:
        TemplateError: the template does not compile, or refuses the messages.
    """
    from jinja2 import TemplateSyntaxError
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        texts, spans = render_jinja_template(
            conversations=[list(messages)],
            chat_template=template,
            return_assistant_tokens_mask=has_markers(template),
            add_generation_prompt=add_generation_prompt,
            **tokenizer.special_tokens_map,
        )
    except MemoryError:
        raise
    except TemplateSyntaxError as error:
        raise TemplateError(error.message or "it is no Jinja template", error.lineno) from error
    except Exception as error:
        # A template is a program, which can fail in any way.
        raise TemplateError(str(error) or type(error).__name__, _line_in_template(error)) from error
    return texts[0], spans[0] if spans else ()


@dataclass(frozen=True)
class Chat:
    """Renders conversations with the template to train with, and finds the assistant's turns in them.

    `template` has generation markers, or else the turns are found by rendering each conversation up to their beginning
    and up to their end.
    """

    tokenizer: Any
    template: str

    def text(self, messages: Messages, place: str, *, add_generation_prompt: bool = False) -> str:
        """`messages` as text.

        Raises:
            Failure: the template refuses them.
        """
        return self._render(messages, place, add_generation_prompt=add_generation_prompt)[0]

    def turns(self, messages: Messages, place: str) -> tuple[str, Spans]:
        """`messages` as text, and what the assistant wrote, each turn with the token that closes it.

        Raises:
            Failure: the template refuses them, or does not show where a turn begins and ends.
        """
        text, marked = self._render(messages, place)
        if has_markers(self.template):
            return text, [self._with_stop_token(text, start, end) for start, end in marked]
        turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        return text, [self._turn(messages, index, text, place) for index in turns]

    def length(self, beginning: Messages, text: str, place: str, *, add_generation_prompt: bool) -> int:
        """How much of `text` the messages are that it begins with, 0 for none.

        Raises:
            Failure: the template refuses them, or renders them differently when they are all there is.
        """
        if not beginning:
            return 0
        prompt = self.text(beginning, place, add_generation_prompt=add_generation_prompt)
        if not text.startswith(prompt):
            raise Failure(
                Reason.CONFIG_INVALID,
                f"{place}: the model's chat template renders the prompt differently when the completion follows, so it "
                "does not show where the completion begins; choose another one with model.chatTemplate.name",
            )
        return len(prompt)

    def closed(self, text: str) -> int:
        """How much of `text` there is up to the last token that closes a turn, all of it if none is at the end."""
        end = len(text.rstrip())
        return end if text[:end].endswith(tuple(self.tokenizer.get_added_vocab())) else len(text)

    def _turn(self, messages: Messages, index: int, text: str, place: str) -> tuple[int, int]:
        before = self.text(messages[:index], place, add_generation_prompt=True) if index else ""
        after = self.text(messages[: index + 1], place)
        if not (index and text.startswith(after) and after.startswith(before)):
            raise Failure(
                Reason.CONFIG_INVALID,
                f"{place}: the model's chat template does not show where messages[{index}], an assistant "
                "turn, begins and ends; put {% generation %} and {% endgeneration %} around it in the template, "
                "or choose one that has them with model.chatTemplate.name",
            )
        return len(before), self.closed(after)

    def _with_stop_token(self, text: str, start: int, end: int) -> tuple[int, int]:
        stop: str = self.tokenizer.eos_token
        return start, end + len(stop) if text.startswith(stop, end) else end

    def _render(self, messages: Messages, place: str, *, add_generation_prompt: bool = False) -> tuple[str, Spans]:
        try:
            return render(self.tokenizer, self.template, messages, add_generation_prompt=add_generation_prompt)
        except TemplateError as error:
            raise Failure(
                Reason.DATA_INVALID, f"{place}: the model's chat template refuses the conversation: {error}"
            ) from error


def training_chat(tokenizer: Any) -> Chat:
    """How conversations are rendered for training.

    The template is the tokenizer's own when that has markers, else TRL's edition of it when TRL knows it, which has
    them, else the tokenizer's own without.

    Raises:
        Failure: the tokenizer has no chat template, or can not tell which tokens a piece of text became.
    """
    from jinja2 import TemplateError as JinjaError
    from trl.chat_template_utils import get_training_chat_template

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
    try:
        own: str = tokenizer.get_chat_template()
    except ValueError as error:
        raise Failure(Reason.CONFIG_INVALID, f"the model's tokenizer: {error}") from error
    if has_markers(own):
        return Chat(tokenizer, own)
    try:
        known: str | None = get_training_chat_template(tokenizer)
    except (ValueError, TypeError, JinjaError):
        known = None  # not one that TRL knows
    return Chat(tokenizer, known or own)


def _shows_answers(text: str, marked: Spans | None, prompts: Sequence[str], ends: Sequence[str]) -> bool:
    """Whether what follows each of `prompts` is an answer of the probe; with `marked`, all that does must be marked."""
    answers = [message["content"] for message in _PROBE if message["role"] == "assistant"]
    if marked is None:
        written = [end[len(prompt) :].lstrip() for prompt, end in zip(prompts, ends, strict=True)]
        return all(map(str.startswith, written, answers))
    # Thoughts and the like may be written before an answer.
    opened = [text[:start].rstrip() for start, _ in marked] == [prompt.rstrip() for prompt in prompts]
    return opened and all(answer in text[start:end] for answer, (start, end) in zip(answers, marked, strict=True))


def _begins_with_bos(tokenizer: Any) -> bool:
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]


def _line_of(template: str, pattern: str) -> int | None:
    found = re.search(pattern, template)
    return None if found is None else template.count("\n", 0, found.start()) + 1


def _line_in_template(error: Exception) -> int | None:
    """Jinja gives the frames of a compiled template the template's own line numbers."""
    line, frame = None, error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == "<template>":
            line = frame.tb_lineno
        frame = frame.tb_next
    return line
