"""What the trainer's own chat templates make of conversations, token by token: what is in brackets is trained."""

from pathlib import Path
from typing import Any

import pytest

from sftjob_contract.run.config import ChatTemplateName, LossOn
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.rows.examples import Example
from sftjob_trainer.tokens.chat_template import load_chat_template
from sftjob_trainer.tokens.label_report import marked
from sftjob_trainer.tokens.template_rendering import render, without_markers
from sftjob_trainer.tokens.tokenizer import NOT_TRAINED, load_tokenizer
from support.checks.golden import check_golden_text
from support.trainer.chats import (
    config,
    conversation,
    encoded,
    named,
    prompted,
    token_table,
    use_template,
    write_plain_tokenizer,
)

GOLDEN = Path(__file__).parent / "golden"
NAMES = [name.value for name in ChatTemplateName]

TWO_TURNS = conversation(
    ("system", "be kind"), ("user", "hi"), ("assistant", "yo"), ("user", "so"), ("assistant", "été")
)
PROMPTED = prompted(
    [("user", "hi"), ("assistant", "yo"), ("user", "so")], [("assistant", "ok"), ("user", "no"), ("assistant", "well")]
)
CASES: dict[str, tuple[Example, LossOn | None]] = {
    "two turns after a system prompt": (TWO_TURNS, None),
    "unicode, and spaces that are tokens of their own": (
        conversation(("user", "日本?"), ("assistant", "a:\n    日本 🙂")),
        None,
    ),
    "an empty answer, then one more": (
        conversation(("user", "hi"), ("assistant", ""), ("user", "so"), ("assistant", "ok")),
        None,
    ),
    "the user has the last word": (conversation(("user", "hi"), ("assistant", "yo"), ("user", "bye")), None),
    "the assistant begins": (conversation(("assistant", "yo"), ("user", "hi"), ("assistant", "ok")), None),
    "prompt and completion as messages, the completion is trained": (PROMPTED, None),
    "prompt and completion as messages, the assistant's turns of the completion are trained": (
        PROMPTED,
        LossOn.ASSISTANT,
    ),
}


@pytest.mark.parametrize("kind", ["chatml-tokenizer", "plain-tokenizer"])
@pytest.mark.parametrize("name", NAMES)
def test_every_token_of_every_template(name: str, kind: str, tokenizer: Any, plain_tokenizer: Any) -> None:
    used = tokenizer if kind == "chatml-tokenizer" else plain_tokenizer
    use_template(used, name)
    sections = [f"== {title}\n{token_table(encoded(used, *case), used)}" for title, case in CASES.items()]
    check_golden_text(GOLDEN / f"{name}-{kind}.txt", "\n".join(sections))


BE_KIND = {
    "chatml": (
        "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n>>yo<|im_end|><<"
        "\n<|im_start|>user\nso<|im_end|>\n<|im_start|>assistant\n>>été<|im_end|><<\n"
    ),
    "zephyr": (
        "<|system|>\nbe kind<|im_end|>\n<|user|>\nhi<|im_end|>\n<|assistant|>\n>>yo<|im_end|><<"
        "\n<|user|>\nso<|im_end|>\n<|assistant|>\n>>été<|im_end|><<\n"
    ),
    "llama": (
        "<|start_header_id|>system<|end_header_id|>\n\nbe kind<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n>>yo<|im_end|><<"
        "<|start_header_id|>user<|end_header_id|>\n\nso<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n>>été<|im_end|><<"
    ),
    "alpaca": (
        "be kind\n\n### Instruction:\nhi\n\n### Response:\n>>yo<|im_end|><<"
        "\n\n### Instruction:\nso\n\n### Response:\n>>été<|im_end|><<"
    ),
    "vicuna": "be kind USER: hi ASSISTANT:>> yo<|im_end|><<USER: so ASSISTANT:>> été<|im_end|><<",
    "mistral": "[INST] be kind\n\nhi[/INST]>> yo<|im_end|><<[INST] so[/INST]>> été<|im_end|><<",
}


@pytest.mark.parametrize("name", NAMES)
def test_the_assistants_turns_are_trained_with_the_token_that_closes_them(name: str, tokenizer: Any) -> None:
    use_template(tokenizer, name)
    assert marked(encoded(tokenizer, TWO_TURNS), tokenizer) == BE_KIND[name]


@pytest.mark.parametrize("name", NAMES)
def test_on_request_every_token_of_a_conversation_is_trained(name: str, tokenizer: Any) -> None:
    use_template(tokenizer, name)
    for example in (TWO_TURNS, PROMPTED):
        row = encoded(tokenizer, example, LossOn.ALL)
        assert row.labels == row.input_ids
        assert row.input_ids == encoded(tokenizer, example).input_ids
    text = BE_KIND[name].replace(">>", "").replace("<<", "")
    assert marked(encoded(tokenizer, TWO_TURNS, LossOn.ALL), tokenizer) == f">>{text}<<"


@pytest.mark.parametrize("name", ["alpaca", "vicuna"])
def test_without_a_system_prompt_there_is_the_formats_own_introduction(name: str, tokenizer: Any) -> None:
    use_template(tokenizer, name)
    introduction = {
        "alpaca": (
            "Below is an instruction that describes a task. "
            "Write a response that appropriately completes the request.\n\n### Instruction:\nhi\n\n### Response:\n"
        ),
        "vicuna": (
            "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
            "detailed, and polite answers to the user's questions. USER: hi ASSISTANT:"
        ),
    }
    shown = marked(encoded(tokenizer, conversation(("user", "hi"), ("assistant", "yo"))), tokenizer)
    assert shown.partition(">>")[0] == introduction[name]


@pytest.mark.parametrize("kind", ["chatml-tokenizer", "plain-tokenizer"])
@pytest.mark.parametrize("name", NAMES)
def test_what_a_model_sees_before_it_answers_is_what_it_saw_in_training(
    name: str, kind: str, tokenizer: Any, plain_tokenizer: Any
) -> None:
    used = tokenizer if kind == "chatml-tokenizer" else plain_tokenizer
    use_template(used, name)
    row = encoded(used, TWO_TURNS)
    prompts = []
    for count in (2, 4):
        asked = list(TWO_TURNS.messages[:count])
        prompts.append(used.apply_chat_template(asked, add_generation_prompt=True)["input_ids"])
    begins = [at for at, label in enumerate(row.labels) if label != NOT_TRAINED and row.labels[at - 1] == NOT_TRAINED]
    assert prompts == [row.input_ids[:at] for at in begins]


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_those_of_transformers_assistant_masks(name: str, tokenizer: Any) -> None:
    use_template(tokenizer, name)
    theirs = tokenizer.apply_chat_template(list(TWO_TURNS.messages), return_assistant_tokens_mask=True)
    row = encoded(tokenizer, TWO_TURNS)
    assert row.input_ids == theirs["input_ids"]
    assert [label != NOT_TRAINED for label in row.labels] == [bool(mask) for mask in theirs["assistant_masks"]]


@pytest.mark.parametrize("name", NAMES)
def test_a_text_begins_with_the_token_that_the_tokenizer_begins_texts_with(name: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_plain_tokenizer(tmp_path, begins_with_bos=True), config().model)
    use_template(tokenizer, name)
    row = encoded(tokenizer, TWO_TURNS)
    assert row.input_ids.count(tokenizer.bos_token_id) == 1
    assert (row.input_ids[0], row.labels[0]) == (tokenizer.bos_token_id, NOT_TRAINED)


def test_a_tokenizer_with_such_a_token_that_does_not_begin_texts_with_it_is_left_alone(tokenizer: Any) -> None:
    tokenizer.bos_token = "<|endoftext|>"
    use_template(tokenizer, "chatml")
    assert tokenizer.bos_token_id not in encoded(tokenizer, TWO_TURNS).input_ids


@pytest.mark.parametrize("name", NAMES)
def test_a_tool_turn_is_rendered_or_refused(name: str, tokenizer: Any) -> None:
    use_template(tokenizer, name)
    example = conversation(("user", "hi"), ("tool", "42"), ("assistant", "yo"))
    rendered = {
        "chatml": "<|im_start|>tool\n42<|im_end|>",
        "llama": "<|start_header_id|>ipython<|end_header_id|>\n\n42",
    }
    if name in rendered:
        assert rendered[name] in marked(encoded(tokenizer, example), tokenizer)
        return
    with pytest.raises(StageError) as raised:
        encoded(tokenizer, example)
    assert raised.value.message == (
        f"d.jsonl:1: the model's chat template refuses the conversation: the {name} template has no tool turns"
    )


@pytest.mark.parametrize("name", ["alpaca", "vicuna"])
def test_a_late_system_message_is_refused_where_the_format_has_no_place_for_it(name: str, tokenizer: Any) -> None:
    use_template(tokenizer, name)
    with pytest.raises(StageError, match=f"in the {name} template a system message can only come first"):
        encoded(tokenizer, conversation(("user", "hi"), ("system", "be kind"), ("assistant", "yo")))


@pytest.mark.parametrize("name", NAMES)
def test_without_markers_a_template_renders_the_same_and_marks_nothing(name: str, tokenizer: Any) -> None:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    template = load_chat_template(named(name), tokenizer)
    plain = without_markers(template)
    assert "generation %}" not in plain
    assert "generation -%}" not in plain
    for prompt in (False, True):
        text, spans = render(tokenizer, plain, TWO_TURNS.messages, add_generation_prompt=prompt)
        assert (text, spans) == (render(tokenizer, template, TWO_TURNS.messages, add_generation_prompt=prompt)[0], ())
    # Other programs know neither transformers' tags nor its settings of Jinja.
    alone = ImmutableSandboxedEnvironment().from_string(plain)
    assert (
        alone.render(messages=TWO_TURNS.messages, eos_token="<|im_end|>", bos_token="")
        == render(tokenizer, template, TWO_TURNS.messages)[0]
    )


@pytest.mark.parametrize("name", NAMES)
def test_without_markers_the_same_turns_are_found_by_rendering_prefixes(name: str, tokenizer: Any) -> None:
    use_template(tokenizer, name)
    expected = encoded(tokenizer, TWO_TURNS)
    tokenizer.chat_template = without_markers(tokenizer.chat_template)
    assert encoded(tokenizer, TWO_TURNS) == expected
