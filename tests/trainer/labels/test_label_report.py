"""What people are told of the labels, and that a model learns to stop."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import DataFormat
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.tokens.label_report import (
    LabelReport,
    check_stop_token,
    examples,
    label_report,
    marked,
    stop_tokens,
)
from sftjob_trainer.tokens.tokenizer import Encoded
from support.trainer.chats import config, conversation, encoded, use_template

CHATS = [DataFormat.MESSAGES, DataFormat.SHAREGPT]
COMPLETIONS = [DataFormat.PROMPT_COMPLETION, DataFormat.ALPACA]


def table(*rows: Encoded) -> pa.Table:
    kind = pa.list_(pa.int32())
    return pa.table(
        {
            "input_ids": pa.array([row.input_ids for row in rows], kind),
            "labels": pa.array([row.labels for row in rows], kind),
        }
    )


def row_of(length: int, *trained: int) -> Encoded:
    return Encoded("d:1", [7] * length, [-100] * (length - len(trained)) + list(trained))


def test_stop_tokens_are_counted_where_they_are_trained() -> None:
    rows = table(row_of(3, 2), row_of(4, 2, 9, 2), Encoded("d:3", [2, 2], [-100, -100]))
    assert label_report(rows, {"<|im_end|>": 2, "</s>": 5}).stops == {"<|im_end|>": 3, "</s>": 0}


def test_rows_are_counted_by_their_length_in_powers_of_two() -> None:
    lengths = [1, 16, 17, 32, 33, 200, 256]
    report = label_report(table(*(row_of(length) for length in lengths)), {})
    assert report.lengths == ((16, 2), (32, 2), (64, 1), (128, 0), (256, 2))
    assert label_report(table(row_of(100)), {}).lengths == ((128, 1),)


def test_the_report_reads_as_sentences() -> None:
    report = LabelReport(stops={"<|im_end|>": 3, "<|endoftext|>": 0}, lengths=((32, 5), (64, 1)))
    assert list(report.lines()) == [
        "stop tokens trained: <|im_end|> 3 times",
        "rows by maximum number of tokens: 32: 5, 64: 1",
    ]
    assert next(LabelReport(stops={"</s>": 0}, lengths=()).lines()) == "stop tokens trained: none"


def test_the_first_ten_rows_are_shown_with_what_is_trained(tokenizer: Any) -> None:
    use_template(tokenizer, "mistral")
    rows = [encoded(tokenizer, conversation(("user", f"{number}?"), ("assistant", "yo"))) for number in range(12)]
    shown = examples(table(*rows), tokenizer)
    assert shown.startswith(
        "--- row 1, trained between >> and <<\n[INST] 0?[/INST]>> yo<|im_end|><<\n"
        "--- row 2, trained between >> and <<\n[INST] 1?[/INST]>> yo<|im_end|><<\n"
    )
    assert shown.count("---") == 10
    assert marked(rows[9], tokenizer) in shown
    assert marked(rows[10], tokenizer) not in shown


@pytest.mark.parametrize(
    ("files", "stops"),
    [
        ({}, ["<|im_end|>"]),
        ({"generation_config.json": {"eos_token_id": 0}}, ["<|im_end|>", "<|endoftext|>"]),
        ({"generation_config.json": {"eos_token_id": [2, 0, 1]}}, ["<|im_end|>", "<|endoftext|>", "<|im_start|>"]),
        ({"generation_config.json": {}}, ["<|im_end|>"]),
        ({"config.json": {"eos_token_id": 0}}, ["<|im_end|>", "<|endoftext|>"]),
        (
            {"config.json": {"eos_token_id": 0}, "generation_config.json": {"eos_token_id": 1}},
            ["<|im_end|>", "<|im_start|>"],
        ),
        ({"generation_config.json": {"eos_token_id": 99999}}, ["<|im_end|>"]),
        ({"generation_config.json": ["no object"]}, ["<|im_end|>"]),
    ],
)
def test_generation_stops_at_the_tokenizers_token_and_at_those_of_the_model(
    files: dict[str, Any], stops: list[str], tokenizer: Any, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert stop_tokens(tokenizer, tmp_path) == {stop: tokenizer.convert_tokens_to_ids(stop) for stop in stops}


TRAINED = LabelReport(stops={"<|im_end|>": 0, "</s>": 1}, lengths=())
UNTRAINED = LabelReport(stops={"<|im_end|>": 0, "</s>": 0}, lengths=())
UNLEARNED = "no token that generation stops at (<|im_end|> or </s>) is trained, so a model would not stop: "


@pytest.mark.parametrize("shape", [*CHATS, *COMPLETIONS, DataFormat.TEXT])
def test_a_model_that_learns_to_stop_is_fine(shape: DataFormat) -> None:
    check_stop_token(TRAINED, shape, config(), all_cut=False)


@pytest.mark.parametrize("shape", CHATS)
def test_a_template_that_closes_turns_with_another_token_is_refused(shape: DataFormat) -> None:
    with pytest.raises(StageError) as raised:
        check_stop_token(UNTRAINED, shape, config(add_eos_token=False), all_cut=False)
    assert raised.value.message == (
        UNLEARNED + "the chat template closes the assistant's turns with something else; choose one that does not with "
        "model.chatTemplate.name, or put {{ eos_token }} before {% endgeneration %} in your own"
    )
    assert raised.value.reason is Reason.CONFIG_INVALID


@pytest.mark.parametrize(
    ("shape", "instead"),
    [*[(shape, "") for shape in CHATS], *[(shape, ", or write model.addEosToken: false") for shape in COMPLETIONS]],
)
def test_rows_that_all_lose_their_end_are_refused(shape: DataFormat, instead: str) -> None:
    with pytest.raises(StageError) as raised:
        check_stop_token(UNTRAINED, shape, config(), all_cut=True)
    assert raised.value.message == (
        UNLEARNED + f"every row is cut at training.maxLength 64, before its end; raise it{instead}"
    )
    assert raised.value.reason is Reason.DATA_INVALID


@pytest.mark.parametrize(
    ("shape", "add_eos_token"), [(DataFormat.TEXT, True), *[(shape, False) for shape in COMPLETIONS]]
)
def test_texts_and_completions_that_are_not_closed_need_no_stop(shape: DataFormat, add_eos_token: bool) -> None:
    check_stop_token(UNTRAINED, shape, config(add_eos_token=add_eos_token), all_cut=True)
