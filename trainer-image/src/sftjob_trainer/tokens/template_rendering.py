"""Render a chat template as transformers does, and analyze its source."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sftjob_trainer.tokens.turns import Messages, TemplateError

Spans = Sequence[tuple[int, int]]
"""Half-open ranges of characters."""

_GENERATION: Final = re.compile(r"(\{%-?\s*)(generation|endgeneration)(\s*-?%\})")
_PLAIN: Final = {"generation": "if true", "endgeneration": "endif"}


def has_markers(template: str) -> bool:
    """Whether `template` has `{% generation %}` around the assistant's text."""
    return _GENERATION.search(template) is not None


def without_markers(template: str) -> str:
    """`template` in plain Jinja with the same output.

    Only transformers supports `{% generation %}`: llama.cpp's Python bindings, minijinja and others refuse the
    template.
    """
    return _GENERATION.sub(lambda found: found[1] + _PLAIN[found[2]] + found[3], template)


def variables_of(template: str) -> frozenset[str]:
    """The input variables that `template` reads; empty if it does not compile."""
    from jinja2 import Environment, meta
    from jinja2 import TemplateError as JinjaError

    environment = Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=False)  # noqa: S701 -- only parsed
    try:
        return frozenset(meta.find_undeclared_variables(environment.parse(without_markers(template))))
    except JinjaError:
        return frozenset()


def render(
    tokenizer: Any,
    template: str,
    messages: Messages,
    *,
    add_generation_prompt: bool = False,
    tools: Sequence[Mapping[str, Any]] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> tuple[str, Spans]:
    """`messages` as text, and its parts between generation markers. As in transformers, templates are sandboxed.

    Raises:
        TemplateError: the template does not compile, or refuses the messages.
    """
    from jinja2 import TemplateSyntaxError
    from transformers.utils.chat_template_utils import render_jinja_template

    render_template: Any = render_jinja_template  # transformers annotates it as if it returned one string
    try:
        texts, spans = render_template(
            conversations=[list(messages)],
            tools=list(tools) or None,
            chat_template=template,
            return_assistant_tokens_mask=has_markers(template),
            add_generation_prompt=add_generation_prompt,
            **{**tokenizer.special_tokens_map, **(kwargs or {})},
        )
    except MemoryError:
        raise
    except TemplateSyntaxError as error:
        raise TemplateError(error.message or "it is not a Jinja template", error.lineno) from error
    except Exception as error:
        # A template is a program and can fail in any way.
        raise TemplateError(str(error) or type(error).__name__, _line_in_template(error)) from error
    return texts[0], spans[0] if spans else ()


def _line_in_template(error: Exception) -> int | None:
    """The line of a template error. Jinja gives the frames of a compiled template the template's own line numbers."""
    line, frame = None, error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == "<template>":
            line = frame.tb_lineno
        frame = frame.tb_next
    return line
