"""The chat template that comes with a model: with markers of what the assistant writes, known to TRL, or neither."""

from typing import Any

import pytest

from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import LossOn
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.rows.examples import Conversation
from sftjob_trainer.tokens.chat_template import training_chat
from sftjob_trainer.tokens.label_report import marked
from sftjob_trainer.tokens.labels import encoder
from support.trainer.chats import config, conversation, encoded
from support.trainer.tiny import CHATML, CHATML_GENERATION

TWO_TURNS = conversation(
    ("system", "be kind"), ("user", "hi"), ("assistant", "yo"), ("user", "so"), ("assistant", "été")
)
ONE_TURN = conversation(("user", "hi"), ("assistant", "yo"))
SMILE = conversation(("user", "hi"), ("assistant", "🙂"))
CONTENT_ONLY = CHATML_GENERATION.replace(
    "message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}",
    "message['content'] }}{% endgeneration %}{{ '<|im_end|>\n' }}",
)
"""Markers that leave out the token that closes the turn."""


def shown(tokenizer: Any, example: Any) -> str:
    return marked(encoded(tokenizer, example), tokenizer)


@pytest.mark.parametrize("template", [CHATML, CHATML_GENERATION])
def test_of_a_conversation_the_assistants_turns_are_trained_with_their_stop_token(
    tokenizer: Any, template: str
) -> None:
    tokenizer.chat_template = template
    assert shown(tokenizer, TWO_TURNS) == (
        "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        ">>yo<|im_end|><<\n<|im_start|>user\nso<|im_end|>\n<|im_start|>assistant\n>>été<|im_end|><<\n"
    )


@pytest.mark.parametrize("example", [ONE_TURN, SMILE], ids=["word", "character-of-several-tokens"])
def test_markers_that_leave_the_stop_token_out_are_completed(tokenizer: Any, example: Conversation) -> None:
    tokenizer.chat_template = CONTENT_ONLY
    answer = example.messages[1]["content"]
    assert shown(tokenizer, example) == (
        f"<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n>>{answer}<|im_end|><<\n"
    )


def test_an_empty_turn_is_its_stop_token(tokenizer: Any) -> None:
    for template in (CHATML, CHATML_GENERATION, CONTENT_ONLY):
        tokenizer.chat_template = template
        assert shown(tokenizer, conversation(("user", "hi"), ("assistant", ""))) == (
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n>><|im_end|><<\n"
        )


def test_without_an_end_of_turn_token_the_turn_is_trained_as_it_is_rendered(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    assert shown(tokenizer, ONE_TURN) == "user: hi\nassistant: >>yo\n<<"


@pytest.mark.parametrize(
    ("known", "turns", "expected"),
    [
        (
            "qwen3",
            TWO_TURNS,
            (
                "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
                ">><think>\n\n</think>\n\nyo<|im_end|><<\n<|im_start|>user\nso<|im_end|>\n<|im_start|>assistant\n"
                ">><think>\n\n</think>\n\nété<|im_end|><<\n"
            ),
        ),
        (
            "gemma",
            ONE_TURN,
            "<start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n>>yo<end_of_turn><<\n",
        ),
    ],
)
def test_a_template_that_trl_knows_is_used_in_its_training_edition(
    tokenizer: Any, known: str, turns: Conversation, expected: str
) -> None:
    from trl import chat_template_utils

    tokenizer.add_special_tokens({"bos_token": "<|endoftext|>"})
    tokenizer.add_tokens(["<end_of_turn>"], special_tokens=True)
    tokenizer.chat_template = getattr(chat_template_utils, f"{known}_chat_template")
    edition = getattr(chat_template_utils, f"{known}_training_chat_template")
    assert training_chat(tokenizer).template == edition
    assert shown(tokenizer, turns).removeprefix("<|endoftext|>") == expected


DIFFERENT_BEGINNING = (
    "a longer conversation is rendered differently from its beginning, "
    "so what a model is trained on would not be what it sees later"
)
WRONG_TEXT = (
    "what follows the generation prompt is not what the assistant writes; open the assistant's turn with "
    "add_generation_prompt as it is opened in a conversation, "
    "and put {% generation %} and {% endgeneration %} around the content and the token that closes it"
)
MARKED_HEADER = CHATML_GENERATION.replace(
    "{{ '<|im_start|>assistant\n' }}{% generation %}", "{% generation %}{{ '<|im_start|>assistant\n' }}", 1
)
MARKED_USER = (
    "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>user\n"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}\n"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED_NEXT = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n"
    "{% generation %}{{ m.content }}<|im_end|>\n<|im_start|>user\n{% endgeneration %}{% else %}"
    "{% if loop.first or m.role != 'user' %}<|im_start|>{{ m.role }}\n{% endif %}{{ m.content }}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED_TOOL = CHATML_GENERATION.replace("{% else %}", "{% elif message['role'] == 'tool' %}TOOL{% else %}").replace(
    "TOOL", "{{ 'tool: ' }}{% generation %}{{ message['content'] }}{% endgeneration %}{{ '\n' }}"
)


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{{ messages|length }}" + CHATML, f" {DIFFERENT_BEGINNING}"),
        ("{{ messages|length }}" + CHATML_GENERATION, f" {DIFFERENT_BEGINNING}"),
        (CHATML.replace("if add_generation_prompt", "if false"), f" {WRONG_TEXT}"),
        (MARKED_HEADER, f" line 1: {WRONG_TEXT}"),
        (MARKED_USER, f" line 2: {WRONG_TEXT}"),
        (MARKED_NEXT, f" line 2: {WRONG_TEXT}"),
        (MARKED_TOOL, " line 2: with tools and calls of them, it marks what the tool writes"),
    ],
    ids=[
        "changing-beginning",
        "changing-beginning-marked",
        "no-prompt",
        "marked-header",
        "marked-user",
        "marked-next",
        "marked-tool",
    ],
)
def test_a_models_own_template_is_checked_as_one_of_the_job_is(tokenizer: Any, template: str, problem: str) -> None:
    tokenizer.chat_template = template
    with pytest.raises(StageError) as raised:
        encoded(tokenizer, TWO_TURNS)
    assert raised.value.message == (
        f"the model's chat template:{problem}; "
        "choose another one with model.chatTemplate.name, or write your own into model.chatTemplate.jinja"
    )
    assert raised.value.reason is Reason.CONFIG_INVALID


REFUSING = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"


@pytest.mark.parametrize("template", [REFUSING + CHATML, REFUSING + CHATML_GENERATION])
def test_a_conversation_that_the_template_refuses_is_named(tokenizer: Any, template: str) -> None:
    tokenizer.chat_template = template
    bad = Conversation("d.jsonl:7", TWO_TURNS.messages)
    with pytest.raises(StageError) as raised:
        encoder(tokenizer, config())([ONE_TURN, bad])
    assert raised.value.message == "d.jsonl:7: the model's chat template refuses the conversation: no system role"
    assert raised.value.reason is Reason.DATA_INVALID


def test_messages_need_a_chat_template(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    with pytest.raises(StageError) as raised:
        encoded(tokenizer, ONE_TURN)
    assert raised.value.message == (
        "the model's tokenizer has no chat template, which messages need; "
        "choose one with model.chatTemplate.name, or use an instruction-tuned model"
    )
    assert raised.value.reason is Reason.CONFIG_INVALID


EMPTY_THOUGHT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Only the last turn has a thought."""
OPENED_THOUGHT = CHATML.replace("assistant\n' }}", "assistant\n<think>\n' }}")
"""The generation prompt opens a thought."""
OTHER_LAST_END = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{{ '<|im_end|>' if loop.last and m.role == 'assistant' else '<|endoftext|>' }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The last turn is closed with another token."""


@pytest.mark.parametrize(
    ("template", "first", "last"),
    [
        (EMPTY_THOUGHT, ">>yo<|im_end|><<", ">><think>\n\n</think>\n\nété<|im_end|><<"),
        (OPENED_THOUGHT, ">>yo<|im_end|><<", ">>été<|im_end|><<"),
        (OTHER_LAST_END, ">>yo<|endoftext|><<", ">>été<|im_end|><<"),
    ],
    ids=["empty-thought", "opened-thought", "other-end"],
)
def test_a_turn_that_is_rendered_otherwise_in_the_middle_is_found(
    tokenizer: Any, template: str, first: str, last: str
) -> None:
    tokenizer.chat_template = template
    head, _, rest = shown(tokenizer, TWO_TURNS).partition(first)
    assert head.endswith("<|im_start|>assistant\n")
    assert rest.partition(last)[0].endswith("<|im_start|>assistant\n")
    assert rest.endswith(f"{last}\n")


@pytest.mark.parametrize(
    ("opens", "closes"),
    [
        ("<think>", "</think>"),
        ("[THINK]", "[/THINK]"),
        ("<seed:think>", "</seed:think>"),
        ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("<|begin_of_thought|>", "<|end_of_thought|>"),
        ("<reasoning>", "</reasoning>"),
    ],
)
def test_a_thought_that_the_generation_prompt_opens_is_trained_after_its_tag(
    tokenizer: Any, opens: str, closes: str
) -> None:
    tokenizer.chat_template = CHATML.replace("assistant\n' }}", f"assistant\n{opens}\n' }}}}")
    thinking, plain = f"{opens}\nhm\n{closes}\nyo", "yo"
    head = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert shown(tokenizer, conversation(("user", "hi"), ("assistant", thinking))) == (
        f"{head}{opens}\n>>hm\n{closes}\nyo<|im_end|><<\n"
    )
    assert shown(tokenizer, conversation(("user", "hi"), ("assistant", plain))) == f"{head}>>yo<|im_end|><<\n"


@pytest.mark.parametrize(
    "prompt",
    [
        "<|assistant|>\n",
        "<|im_start|>assistant\nHere is my thought:\n",
        "<|im_start|>assistant\nSure, ",
        "<|im_start|>assistant\n ",
        "<|im_start|>assistant \n",
        "<|im_start|>assistant\n<think>\nSure, ",
    ],
)
def test_a_generation_prompt_that_no_turn_begins_with_is_refused(tokenizer: Any, prompt: str) -> None:
    tokenizer.chat_template = CHATML.replace("<|im_start|>assistant\n' }}", prompt + "' }}")
    with pytest.raises(StageError, match="is not rendered as the beginning of one with an answer"):
        encoded(tokenizer, TWO_TURNS)


def test_words_in_the_generation_prompt_and_in_every_turn_are_not_trained(tokenizer: Any) -> None:
    tokenizer.chat_template = CHATML.replace("'] + '\n' +", "'] + '\nSure, ' +").replace(
        "assistant\n' }}", "assistant\nSure, ' }}"
    )
    assert shown(tokenizer, conversation(("user", "hi"), ("assistant", "Sure, yo"))) == (
        "<|im_start|>user\nSure, hi<|im_end|>\n<|im_start|>assistant\nSure, >>Sure, yo<|im_end|><<\n"
    )


ALWAYS = "{% if add_generation_prompt or messages[-1].role == 'assistant' %}"


@pytest.mark.parametrize(
    "template",
    [
        CHATML.replace("{% if add_generation_prompt %}", ALWAYS),
        CHATML.replace("<|im_end|>", "").replace("{% if add_generation_prompt %}", ALWAYS),
        CHATML + "{% if not add_generation_prompt %}That is all.{% endif %}",
    ],
    ids=["header", "header-without-a-closing-token", "footer"],
)
def test_what_is_written_after_the_last_turn_is_not_trained(tokenizer: Any, template: str) -> None:
    tokenizer.chat_template = template
    with pytest.raises(StageError, match="it writes more than the token that closes the turn after the last answer"):
        encoded(tokenizer, ONE_TURN)


@pytest.mark.parametrize(
    "template",
    [CHATML, "{% if messages[0].role %}{% endif %}" + CHATML, EMPTY_THOUGHT, OPENED_THOUGHT, CHATML_GENERATION],
    ids=["plain", "needs-a-message", "empty-thought", "opened-thought", "marked"],
)
def test_the_assistant_may_speak_first(tokenizer: Any, template: str) -> None:
    tokenizer.chat_template = template
    talk = conversation(("assistant", "welcome"), ("user", "hi"), ("assistant", "yo"))
    assert shown(tokenizer, talk).startswith("<|im_start|>assistant\n>>welcome<|im_end|><<\n<|im_start|>user\n")


@pytest.mark.parametrize("template", [CHATML, CHATML_GENERATION], ids=["plain", "marked"])
def test_a_token_that_closes_a_content_and_that_the_template_writes_too_is_there_once(
    tokenizer: Any, template: str
) -> None:
    tokenizer.chat_template = template
    closed = conversation(("user", "hi<|im_end|>"), ("assistant", "yo<|im_end|>\n"), ("user", "a"), ("assistant", "b"))
    plain = conversation(("user", "hi"), ("assistant", "yo"), ("user", "a"), ("assistant", "b"))
    other = conversation(("user", "hi"), ("assistant", "yo<|endoftext|>"))
    for loss_on in (None, LossOn.ALL):
        assert encoded(tokenizer, closed, loss_on) == encoded(tokenizer, plain, loss_on)
    assert ">>yo<|endoftext|><|im_end|><<" in shown(tokenizer, other)


def test_a_row_that_a_template_renders_oddly_is_a_row_that_can_not_be_used(tokenizer: Any) -> None:
    tokenizer.chat_template = "{% if messages[0].content == 'odd' %}{{ messages | length }}{% endif %}" + CHATML
    odd = conversation(("user", "odd"), ("assistant", "yo"), ("user", "so"), ("assistant", "ok"), place="d.jsonl:7")
    with pytest.raises(StageError) as raised:
        encoder(tokenizer, config())([ONE_TURN, odd])
    assert raised.value.reason is Reason.DATA_INVALID
    assert raised.value.message == (
        "d.jsonl:7: the model's chat template does not show where messages[1], an assistant turn, begins and ends; "
        "put {% generation %} and {% endgeneration %} around it in the template, "
        "or choose one that has them with model.chatTemplate.name"
    )
