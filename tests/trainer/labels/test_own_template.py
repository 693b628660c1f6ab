"""The chat template that comes with a model: with markers of what the assistant writes, known to TRL, or neither."""

from typing import Any

import pytest

from sftjob_contract.config import LossOn
from sftjob_contract.reasons import Reason
from sftjob_trainer.chat_template import training_chat
from sftjob_trainer.failure import Failure
from sftjob_trainer.label_report import marked
from sftjob_trainer.labels import encoder
from sftjob_trainer.shapes import Conversation
from support.chats import config, conversation, encoded, prompted
from support.tiny import CHATML, CHATML_GENERATION

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
                ">><think>\n\n</think>\n\nyo<|im_end|>\n<<<|im_start|>user\nso<|im_end|>\n<|im_start|>assistant\n"
                ">><think>\n\n</think>\n\nété<|im_end|>\n<<"
            ),
        ),
        (
            "gemma",
            ONE_TURN,
            "<start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n>>yo<end_of_turn>\n<<",
        ),
    ],
)
def test_a_template_that_trl_knows_is_used_in_its_training_edition(
    tokenizer: Any, known: str, turns: Conversation, expected: str
) -> None:
    from trl import chat_template_utils

    tokenizer.add_special_tokens({"bos_token": "<|endoftext|>"})
    tokenizer.chat_template = getattr(chat_template_utils, f"{known}_chat_template")
    edition = getattr(chat_template_utils, f"{known}_training_chat_template")
    assert training_chat(tokenizer).template == edition
    assert shown(tokenizer, turns).removeprefix("<|endoftext|>") == expected


def test_a_template_that_renders_a_shorter_conversation_differently_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = CHATML.replace("message['content'] +", "message['content'] + messages|length|string +")
    with pytest.raises(Failure) as raised:
        encoded(tokenizer, TWO_TURNS)
    assert raised.value.message == (
        "d.jsonl:1: the model's chat template does not show where messages[2], an assistant turn, begins and ends; "
        "put {% generation %} and {% endgeneration %} around it in the template, "
        "or choose one that has them with model.chatTemplate.name"
    )
    assert raised.value.reason is Reason.CONFIG_INVALID


def test_a_prompt_that_is_rendered_differently_before_its_completion_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ messages|length }}" + CHATML_GENERATION
    with pytest.raises(Failure) as raised:
        encoded(tokenizer, prompted([("user", "hi")], [("assistant", "yo")]))
    assert raised.value.message == (
        "d.jsonl:1: the model's chat template renders the prompt differently when the completion follows, so it does "
        "not show where the completion begins; choose another one with model.chatTemplate.name"
    )
    assert raised.value.reason is Reason.CONFIG_INVALID


REFUSING = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"


@pytest.mark.parametrize("template", [REFUSING + CHATML, REFUSING + CHATML_GENERATION])
def test_a_conversation_that_the_template_refuses_is_named(tokenizer: Any, template: str) -> None:
    tokenizer.chat_template = template
    bad = Conversation("d.jsonl:7", TWO_TURNS.messages)
    with pytest.raises(Failure) as raised:
        encoder(tokenizer, config())([ONE_TURN, bad])
    assert raised.value.message == "d.jsonl:7: the model's chat template refuses the conversation: no system role"
    assert raised.value.reason is Reason.DATA_INVALID


def test_messages_need_a_chat_template(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    with pytest.raises(Failure) as raised:
        encoded(tokenizer, ONE_TURN)
    assert raised.value.message == (
        "the model's tokenizer has no chat template, which messages need; "
        "choose one with model.chatTemplate.name, or use an instruction-tuned model"
    )
    assert raised.value.reason is Reason.CONFIG_INVALID


def test_what_the_prompt_ends_with_is_not_the_completions_even_if_it_is_marked(tokenizer: Any) -> None:
    tokenizer.chat_template = CHATML_GENERATION.replace(
        "{{ '<|im_start|>assistant\n' }}{% generation %}", "{% generation %}{{ '<|im_start|>assistant\n' }}", 1
    )
    assert shown(tokenizer, ONE_TURN) == "<|im_start|>user\nhi<|im_end|>\n>><|im_start|>assistant\nyo<|im_end|><<\n"
    example = prompted([("user", "hi")], [("assistant", "yo")])
    for loss_on in (LossOn.COMPLETION, LossOn.ASSISTANT):
        assert marked(encoded(tokenizer, example, loss_on), tokenizer) == (
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n>>yo<|im_end|><<\n"
        )
