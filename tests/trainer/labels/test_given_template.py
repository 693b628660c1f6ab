"""A chat template that the user gives: what is refused, with the line to look at."""

from pathlib import Path
from typing import Any

import pytest

from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import ChatTemplate
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.tokens.chat_template import load_chat_template
from sftjob_trainer.tokens.label_report import marked
from sftjob_trainer.tokens.template_rendering import render, without_markers
from support.trainer.chats import conversation, encoded
from support.trainer.tiny import CHATML, CHATML_GENERATION

MESSAGES = conversation(("user", "hi"), ("assistant", "yo")).messages
PROMPT = "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"

DIFFERENT_BEGINNING = (
    "a longer conversation is rendered differently from its beginning, "
    "so what a model is trained on would not be what it sees later"
)
DIFFERENT_PROMPT = (
    "a conversation that ends with a question and add_generation_prompt is not rendered as the beginning of "
    "one with an answer, so what a model is trained on would not be what it sees later"
)
WRONG_TEXT = (
    "what follows the generation prompt is not what the assistant writes; open the assistant's turn with "
    "add_generation_prompt as it is opened in a conversation, "
    "and put {% generation %} and {% endgeneration %} around the content and the token that closes it"
)


def inline(text: str) -> ChatTemplate:
    return ChatTemplate(name=None, jinja=text, file=None)


def refusal(tokenizer: Any, template: str) -> str:
    with pytest.raises(StageError) as raised:
        load_chat_template(inline(template), tokenizer)
    assert raised.value.reason is Reason.CONFIG_INVALID
    return raised.value.message


@pytest.mark.parametrize("template", [CHATML, CHATML_GENERATION], ids=["plain", "with-markers"])
def test_a_template_that_grows_with_the_conversation_is_taken_as_it_is(tokenizer: Any, template: str) -> None:
    assert load_chat_template(inline(template), tokenizer) == template


def test_a_template_can_come_from_a_file(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "own.jinja"
    path.write_text(CHATML_GENERATION + "{# é #}", encoding="utf-8")
    wanted = ChatTemplate(name=None, jinja=None, file=str(path))
    assert load_chat_template(wanted, tokenizer) == CHATML_GENERATION + "{# é #}"


@pytest.mark.parametrize(
    ("content", "problem"), [(None, "No such file or directory"), (b"\xff", "can't decode byte 0xff")]
)
def test_a_file_that_can_not_be_read_is_told(
    content: bytes | None, problem: str, tokenizer: Any, tmp_path: Path
) -> None:
    path = tmp_path / "own.jinja"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StageError) as raised:
        load_chat_template(ChatTemplate(name=None, jinja=None, file=str(path)), tokenizer)
    assert raised.value.message.startswith(f"model.chatTemplate.configMapKeyRef: {path} cannot be read: ")
    assert problem in raised.value.message
    assert raised.value.reason is Reason.CONFIG_INVALID


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{% for m in messages %}\n{{ m }}\n{% endfo %}", "line 3: Encountered unknown tag 'endfo'."),
        ("a\n{{ messages[0]['role' }}", "line 2: unexpected '}'"),
        ("a\nb\n{{ messages[0].nothing.more }}", "line 3: 'dict object' has no attribute 'nothing'"),
        ("{{ 1 }}\n{{ raise_exception('only tools') }}", "line 2: only tools"),
        ("{{ messages[0]['content'] + 1 }}", 'line 1: can only concatenate str (not "int") to str'),
        ("\n\n{{ 1 // 0 }}", "line 3: integer division or modulo by zero"),
        ("\n{{ ().__class__.__bases__ }}", "line 2: access to attribute '__class__' of 'tuple' object is unsafe."),
    ],
)
def test_a_template_that_does_not_work_is_refused_with_its_line(template: str, sentence: str, tokenizer: Any) -> None:
    assert refusal(tokenizer, template).startswith(f"model.chatTemplate.jinja: {sentence}")


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("hello", " it leaves out what the user writes"),
        (
            "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}",
            " it leaves out what the assistant",
        ),
        # A count of the messages at the start changes as the conversation goes on.
        ("{{ messages|length }}\n" + CHATML, f" {DIFFERENT_BEGINNING}"),
        # The last turn is rendered unlike the others.
        (
            CHATML.replace("'<|im_end|>\n'", "('<|im_end|>\n' if not loop.last else '')").replace("%}{{", "%}\n{{"),
            f" line 4: {DIFFERENT_PROMPT}",
        ),
        # What opens the assistant's turn is another text at the prompt.
        (CHATML.replace("'<|im_start|>assistant\n'", "'<|im_start|>bot\n'"), f" line 3: {DIFFERENT_PROMPT}"),
    ],
)
def test_a_template_must_show_in_training_what_a_model_sees_later(template: str, sentence: str, tokenizer: Any) -> None:
    assert refusal(tokenizer, template).startswith(f"model.chatTemplate.jinja:{sentence}")


@pytest.mark.parametrize(
    ("template", "line"),
    [
        # Without a prompt, the header of the assistant's turn would be trained.
        (CHATML.replace("{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}", ""), ""),
        # Markers around the user's turns too.
        (
            "{% for m in messages %}\n{{ m['role'] + ': ' }}"
            "{% generation %}{{ m['content'] + eos_token }}{% endgeneration %}{% endfor %}" + PROMPT,
            " line 2:",
        ),
        # Markers around the header.
        (
            CHATML_GENERATION.replace(
                "{{ '<|im_start|>assistant\n' }}{% generation %}", "{% generation %}{{ '<|im_start|>assistant\n' }}", 1
            ),
            " line 1:",
        ),
        # What a block sets is marked before what goes before it is rendered.
        (
            "{% for m in messages %}\n{% if m['role'] == 'assistant' %}"
            "{% set turn %}{% generation %}{{ m['content'] + eos_token }}{% endgeneration %}{% endset %}"
            "{{ 'assistant: ' + turn }}{% else %}{{ 'user: ' + m['content'] + '\n' }}{% endif %}{% endfor %}" + PROMPT,
            " line 2:",
        ),
    ],
    ids=["no-prompt", "users-turns", "header", "set"],
)
def test_a_template_must_mark_what_the_assistant_writes(template: str, line: str, tokenizer: Any) -> None:
    assert refusal(tokenizer, template) == f"model.chatTemplate.jinja:{line} {WRONG_TEXT}"


def test_markers_around_the_answer_must_hold_the_thought_before_it_too(tokenizer: Any) -> None:
    template = "{% for m in messages %}{{ m['role'] + ': ' }}TURN{% endfor %}" + PROMPT
    by_role = "{% if m['role'] == 'assistant' %}ASSISTANT{% else %}{{ m['content'] }}{% endif %}"
    answer = "{{ m['content'] + eos_token }}"
    template = template.replace("TURN", by_role)
    marks_answer = "<think></think>{% generation %}" + answer + "{% endgeneration %}"
    assert WRONG_TEXT in refusal(tokenizer, template.replace("ASSISTANT", marks_answer))
    for turn in ("{% generation %}<think></think>" + answer + "{% endgeneration %}", "<think></think>" + answer):
        taken = template.replace("ASSISTANT", turn)
        assert load_chat_template(inline(taken), tokenizer) == taken
        tokenizer.chat_template = taken
        shown = marked(encoded(tokenizer, conversation(("user", "hi"), ("assistant", "yo"))), tokenizer)
        assert shown == "user: hiassistant: >><think></think>yo<|im_end|><<"


def test_a_given_template_decides_what_is_trained(tokenizer: Any) -> None:
    tokenizer.chat_template = load_chat_template(
        inline(
            "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ 'A: ' }}"
            "{% generation %}{{ m['content'] + eos_token }}{% endgeneration %}"
            "{% else %}{{ 'Q: ' + m['content'] + '\n' }}{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'A: ' }}{% endif %}"
        ),
        tokenizer,
    )
    assert marked(encoded(tokenizer, conversation(*[("user", "hi"), ("assistant", "yo")] * 2)), tokenizer) == (
        "Q: hi\nA: >>yo<|im_end|><<Q: hi\nA: >>yo<|im_end|><<"
    )


@pytest.mark.parametrize(
    "spelling", ["{%generation%}", "{%-generation-%}", "{%- generation -%}", "{% generation %}", "{%-  generation %}"]
)
def test_markers_are_taken_out_however_they_are_spelled(spelling: str, tokenizer: Any) -> None:
    template = f"x \n {spelling} y \n{spelling.replace('generation', 'endgeneration')} \n z {{# generation #}}"
    plain = without_markers(template)
    assert "generation" not in plain.replace("{# generation #}", "")
    assert render(tokenizer, plain, MESSAGES)[0] == render(tokenizer, template, MESSAGES)[0]
