"""What `training.lossOn` and `model.addEosToken` mean for rows of each shape: the text in >>...<< is trained."""

from pathlib import Path
from typing import Any

import pytest

from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import LossOn
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.rows.examples import Example, PromptCompletion, Text
from sftjob_trainer.tokens.label_report import marked
from sftjob_trainer.tokens.labels import encoder
from sftjob_trainer.tokens.tokenizer import load_tokenizer
from support.trainer.chats import config, conversation, encoded, prompted, use_template, write_plain_tokenizer

TEXT = Text("d.csv:2", "open a file")
COMPLETION = PromptCompletion("d.jsonl:1", "what does it do?\n", "open a file")
TALK = conversation(("user", "hi"), ("assistant", "yo"), ("user", "so"))
PROMPTED = prompted([("assistant", "yo"), ("user", "so")], [("assistant", "ok"), ("user", "no"), ("assistant", "well")])
TALKED = "USER: hi ASSISTANT: yo<|im_end|>USER: so"


@pytest.mark.parametrize(
    ("example", "loss_on", "expected"),
    [
        (TEXT, None, ">>open a file<|im_end|><<"),
        (TEXT, LossOn.ALL, ">>open a file<|im_end|><<"),
        (COMPLETION, None, "what does it do?\n>>open a file<|im_end|><<"),
        (COMPLETION, LossOn.COMPLETION, "what does it do?\n>>open a file<|im_end|><<"),
        (COMPLETION, LossOn.ALL, ">>what does it do?\nopen a file<|im_end|><<"),
        (TALK, None, "[INST] hi[/INST]>> yo<|im_end|><<[INST] so[/INST]"),
        (TALK, LossOn.ASSISTANT, "[INST] hi[/INST]>> yo<|im_end|><<[INST] so[/INST]"),
        (TALK, LossOn.ALL, ">>[INST] hi[/INST] yo<|im_end|>[INST] so[/INST]<<"),
        (PROMPTED, None, " yo<|im_end|>[INST] so[/INST]>> ok<|im_end|>[INST] no[/INST] well<|im_end|><<"),
        (PROMPTED, LossOn.COMPLETION, " yo<|im_end|>[INST] so[/INST]>> ok<|im_end|>[INST] no[/INST] well<|im_end|><<"),
        (
            PROMPTED,
            LossOn.ASSISTANT,
            " yo<|im_end|>[INST] so[/INST]>> ok<|im_end|><<[INST] no[/INST]>> well<|im_end|><<",
        ),
        (PROMPTED, LossOn.ALL, ">> yo<|im_end|>[INST] so[/INST] ok<|im_end|>[INST] no[/INST] well<|im_end|><<"),
    ],
)
def test_what_is_trained(example: Example, loss_on: LossOn | None, expected: str, tokenizer: Any) -> None:
    use_template(tokenizer, "mistral")
    assert marked(encoded(tokenizer, example, loss_on), tokenizer) == expected


@pytest.mark.parametrize(
    ("example", "loss_on", "sentence"),
    [
        (
            TEXT,
            LossOn.COMPLETION,
            "training.lossOn: completion does not match rows of text, which have no parts; write all",
        ),
        (
            TEXT,
            LossOn.ASSISTANT,
            "training.lossOn: assistant does not match rows of text, which have no parts; write all",
        ),
        (
            COMPLETION,
            LossOn.ASSISTANT,
            (
                "training.lossOn: assistant does not match rows of a prompt and a completion that are text; "
                "write completion or all"
            ),
        ),
        (
            TALK,
            LossOn.COMPLETION,
            (
                "training.lossOn: completion does not match conversations, which have no prompt and completion; "
                "write assistant or all"
            ),
        ),
    ],
)
def test_a_part_that_rows_do_not_have_is_refused(
    example: Example, loss_on: LossOn, sentence: str, tokenizer: Any
) -> None:
    with pytest.raises(StageError) as raised:
        encoded(tokenizer, example, loss_on)
    assert raised.value.message == sentence + ", or remove it to train on what matches the rows"
    assert raised.value.reason is Reason.CONFIG_INVALID


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        (Text("d.jsonl:1", "<s>open a file<|endoftext|>"), ">><s>open a file<|endoftext|><<"),
        (Text("d.jsonl:1", "<s>open a file<|endoftext|>\n \n"), ">><s>open a file<|endoftext|><<"),
        (Text("d.jsonl:1", "open a file"), ">><s>open a file<|endoftext|><<"),
        (PromptCompletion("d.jsonl:1", "<s>what?\n", "open<|endoftext|>\n"), "<s>what?\n>>open<|endoftext|><<"),
        (PromptCompletion("d.jsonl:1", "", "<s>open"), "<s>>>open<|endoftext|><<"),
        (Text("d.jsonl:1", " \n<s>open a file<|endoftext|>"), ">><s>open a file<|endoftext|><<"),
        (PromptCompletion("d.jsonl:1", "\n<s>what?", "open"), "<s>what?>>open<|endoftext|><<"),
        (PromptCompletion("d.jsonl:1", "what?", "<s>open<|endoftext|>"), "<s>what?>>open<|endoftext|><<"),
    ],
)
@pytest.mark.parametrize("ends_with_eos", [False, True])
def test_special_tokens_that_a_text_is_written_with_get_no_second_ones(
    example: Example, expected: str, ends_with_eos: bool, tmp_path: Path
) -> None:
    directory = write_plain_tokenizer(tmp_path, begins_with_bos=True, ends_with_eos=ends_with_eos)
    tokenizer = load_tokenizer(directory, config().model)
    assert marked(encoded(tokenizer, example), tokenizer) == expected


def test_what_follows_the_end_of_a_text_stays_where_no_end_is_asked_for(tokenizer: Any) -> None:
    example = Text("d.jsonl:1", "open<|im_end|>\n")
    assert marked(encoded(tokenizer, example, add_eos_token=False), tokenizer) == ">>open<|im_end|>\n<<"


def test_a_text_is_closed_once(tokenizer: Any) -> None:
    assert marked(encoded(tokenizer, Text("a", "open a file<|im_end|>")), tokenizer) == ">>open a file<|im_end|><<"


def test_without_a_prompt_the_whole_completion_is_trained(tokenizer: Any) -> None:
    assert marked(encoded(tokenizer, PromptCompletion("a", "", "close it")), tokenizer) == ">>close it<|im_end|><<"


def test_without_a_prompt_what_opens_the_assistants_turn_is_not_trained(tokenizer: Any) -> None:
    use_template(tokenizer, "chatml")
    example = prompted([], [("assistant", "ok"), ("user", "no"), ("assistant", "well")])
    assert marked(encoded(tokenizer, example), tokenizer) == (
        "<|im_start|>assistant\n>>ok<|im_end|>\n<|im_start|>user\nno<|im_end|>\n<|im_start|>assistant\nwell<|im_end|><<\n"
    )


def test_a_completion_that_the_user_begins_is_trained_from_the_users_turn_on(tokenizer: Any) -> None:
    use_template(tokenizer, "chatml")
    example = prompted([("system", "be kind")], [("user", "hi"), ("assistant", "yo")])
    system = "<|im_start|>system\nbe kind<|im_end|>\n"
    assert marked(encoded(tokenizer, example), tokenizer) == (
        f"{system}>><|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyo<|im_end|><<\n"
    )
    assert marked(encoded(tokenizer, example, LossOn.ASSISTANT), tokenizer) == (
        f"{system}<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n>>yo<|im_end|><<\n"
    )


def test_a_token_over_the_boundary_belongs_to_the_completion(tokenizer: Any) -> None:
    example = PromptCompletion("a", "open a ", "file")
    assert marked(encoded(tokenizer, example), tokenizer) == "open a>> file<|im_end|><<"


@pytest.mark.parametrize(
    ("example", "expected"),
    [(TEXT, ">>open a file<<"), (COMPLETION, "what does it do?\n>>open a file<<")],
)
def test_on_request_nothing_closes_a_text_or_a_completion(example: Example, expected: str, tokenizer: Any) -> None:
    assert marked(encoded(tokenizer, example, add_eos_token=False), tokenizer) == expected


@pytest.mark.parametrize("example", [TALK, PROMPTED])
def test_what_closes_a_turn_is_the_templates_to_say(example: Example, tokenizer: Any) -> None:
    use_template(tokenizer, "zephyr")
    assert encoded(tokenizer, example, add_eos_token=False) == encoded(tokenizer, example)


def test_a_batch_may_hold_several_shapes(tokenizer: Any) -> None:
    use_template(tokenizer, "chatml")
    examples: list[Example] = [COMPLETION, PROMPTED, PROMPTED, COMPLETION]
    assert encoder(tokenizer, config())(examples) == [encoded(tokenizer, example) for example in examples]
