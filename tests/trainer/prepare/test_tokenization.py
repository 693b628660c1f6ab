"""What gets a label: the text in >>...<< is what the model is trained to write."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract.config import DataFormat
from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure
from sftjob_trainer.prepare import marked
from sftjob_trainer.shapes import Conversation, Example, PromptCompletion, Text
from sftjob_trainer.tokenization import encode_by_prefixes, encoder, load_tokenizer, training_template
from support.tiny import CHATML, CHATML_GENERATION, write_tokenizer


@pytest.fixture
def tokenizer(model_without_weights: Path) -> Any:
    """A fresh one for each test, since templates are set on it."""
    return load_tokenizer(model_without_weights, trust_remote_code=False)


def conversation(*turns: tuple[str, str]) -> Conversation:
    return Conversation("d.jsonl:1", tuple({"role": role, "content": content} for role, content in turns))


def trained(tokenizer: Any, shape: DataFormat, examples: Sequence[Example]) -> list[str]:
    return [marked(encoded, tokenizer) for encoded in encoder(tokenizer, shape)(examples)]


TWO_TURNS = conversation(
    ("system", "be kind"), ("user", "hi"), ("assistant", "yo"), ("user", "so"), ("assistant", "été")
)


def test_a_text_is_trained_whole_and_closed_once(tokenizer: Any) -> None:
    examples = [Text("a", "open a file"), Text("b", "open a file<|im_end|>")]
    assert trained(tokenizer, DataFormat.TEXT, examples) == [">>open a file<|im_end|><<"] * 2


def test_of_prompt_and_completion_only_the_completion_is_trained(tokenizer: Any) -> None:
    examples = [PromptCompletion("a", "what does it do?\n", "open a file"), PromptCompletion("b", "", "close it")]
    assert trained(tokenizer, DataFormat.PROMPT_COMPLETION, examples) == [
        "what does it do?\n>>open a file<|im_end|><<",
        ">>close it<|im_end|><<",
    ]


def test_a_token_over_the_boundary_belongs_to_the_completion(tokenizer: Any) -> None:
    examples = [PromptCompletion("a", "open a ", "file")]
    assert trained(tokenizer, DataFormat.PROMPT_COMPLETION, examples) == ["open a>> file<|im_end|><<"]


@pytest.mark.parametrize("template", [CHATML, CHATML_GENERATION])
def test_of_a_conversation_the_assistants_turns_are_trained_with_their_stop_token(
    tokenizer: Any, template: str
) -> None:
    tokenizer.chat_template = template
    assert trained(tokenizer, DataFormat.MESSAGES, [TWO_TURNS]) == [
        (
            "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
            ">>yo<|im_end|><<\n<|im_start|>user\nso<|im_end|>\n<|im_start|>assistant\n>>été<|im_end|><<\n"
        )
    ]


def test_markers_that_leave_the_stop_token_out_are_completed(tokenizer: Any) -> None:
    tokenizer.chat_template = CHATML_GENERATION.replace(
        "message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}",
        "message['content'] }}{% endgeneration %}{{ '<|im_end|>\n' }}",
    )
    assert trained(tokenizer, DataFormat.MESSAGES, [conversation(("user", "hi"), ("assistant", "yo"))]) == [
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n>>yo<|im_end|><<\n"
    ]


def test_without_an_end_of_turn_token_the_turn_is_trained_as_it_is_rendered(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    assert trained(tokenizer, DataFormat.MESSAGES, [conversation(("user", "hi"), ("assistant", "yo"))]) == [
        "user: hi\nassistant: >>yo\n<<"
    ]


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
            conversation(("user", "hi"), ("assistant", "yo")),
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
    assert training_template(tokenizer) == getattr(chat_template_utils, f"{known}_training_chat_template")
    assert trained(tokenizer, DataFormat.MESSAGES, [turns])[0].removeprefix("<|endoftext|>") == expected


def test_a_template_that_renders_a_shorter_conversation_differently_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = CHATML.replace("message['content'] +", "message['content'] + messages|length|string +")
    with pytest.raises(Failure) as raised:
        encode_by_prefixes(tokenizer, [TWO_TURNS])
    assert raised.value.message == (
        "d.jsonl:1: the model's chat template does not show where messages[2], an assistant turn, begins and ends; "
        "put {% generation %} and {% endgeneration %} around it in the template, "
        "or render the conversations yourself into a text column"
    )
    assert raised.value.reason is Reason.CONFIG_INVALID


REFUSING = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"


@pytest.mark.parametrize("template", [REFUSING + CHATML, REFUSING + CHATML_GENERATION])
def test_a_conversation_that_the_template_refuses_is_named(tokenizer: Any, template: str) -> None:
    tokenizer.chat_template = template
    good = conversation(("user", "hi"), ("assistant", "yo"))
    bad = Conversation("d.jsonl:7", TWO_TURNS.messages)
    with pytest.raises(Failure) as raised:
        trained(tokenizer, DataFormat.MESSAGES, [good, bad])
    assert raised.value.message == "d.jsonl:7: the model's chat template refuses the conversation: no system role"
    assert raised.value.reason is Reason.DATA_INVALID


def test_messages_need_a_chat_template(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    with pytest.raises(Failure, match="the model's tokenizer has no chat template, which messages need; use an"):
        encoder(tokenizer, DataFormat.MESSAGES)


def test_a_tokenizer_without_an_end_of_sequence_token_is_refused(model_without_weights: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(model_without_weights, trust_remote_code=False)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(Failure, match="the model's tokenizer has no end-of-sequence token"):
        load_tokenizer(tmp_path, trust_remote_code=False)


def test_a_tokenizer_that_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(Failure) as raised:
        load_tokenizer(tmp_path, trust_remote_code=False)
    assert raised.value.message == (
        "the model's tokenizer can not be loaded: none of vocab.json, merges.txt, tokenizer.json is there"
    )
    assert raised.value.reason is Reason.CONFIG_INVALID


def test_a_broken_tokenizer_is_told(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(Failure, match=r"^the model's tokenizer can not be loaded: ") as raised:
        load_tokenizer(tmp_path, trust_remote_code=False)
    assert raised.value.reason is Reason.CONFIG_INVALID


def test_code_that_comes_with_a_model_is_not_run_unasked(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}')
    (tmp_path / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["own.OwnTokenizer", null]}}')
    (tmp_path / "own.py").write_text("raise SystemExit('this code must not run')\n")
    with pytest.raises(Failure, match=r"read that code, then set model\.trustRemoteCode: true"):
        load_tokenizer(tmp_path, trust_remote_code=False)
