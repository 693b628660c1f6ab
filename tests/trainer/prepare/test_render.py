"""Prompts and completions of text on a model with a chat template: turns, or plain if the job says so."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract.reports.stats import PreparedStats
from sftjob_contract.run.config import DataFormat, LossOn, Preprocessing, Render, RowTemplate
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.tokens.label_report import marked
from sftjob_trainer.tokens.tokenizer import Encoded, load_tokenizer
from support.trainer.chats import config
from support.trainer.preparing import Workbench
from support.trainer.tiny import data_source, write_model_without_weights

QUESTION = {"prompt": "return the item?", "completion": "open a file"}
TURNS = "<|im_start|>user\nreturn the item?<|im_end|>\n<|im_start|>assistant\n>>open a file<|im_end|><<\n"
INSTRUCTED = {**QUESTION, "system": "be kind"}
AS_IT_IS = "return the item?>>open a file<|im_end|><<"


def prepared(bench: Workbench, *rows: Mapping[str, Any], **options: Any) -> tuple[list[str], PreparedStats]:
    stats = bench.prepare(bench.write("d.jsonl", rows), **{"render": Render.AUTO, **options})
    tokenizer = load_tokenizer(bench.model, config().model)
    return [marked(Encoded("", row["input_ids"], row["labels"]), tokenizer) for row in bench.sequences()], stats


def test_a_question_and_an_answer_become_a_users_and_an_assistants_turn_and_the_log_says_so(
    bench: Workbench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "sftjob_trainer")
    shown, stats = prepared(bench, QUESTION, QUESTION)
    assert shown == [TURNS] * 2
    assert (stats.format, stats.rendered_rows) == (DataFormat.PROMPT_COMPLETION, 2)
    assert (
        "      rendered with the chat template, the prompt as a user's and the completion as an assistant's turn: "
        "2 rows; dataset.render: plain keeps them as they are" in caplog.messages
    )


def test_plain_keeps_them_as_they_are(bench: Workbench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "sftjob_trainer")
    shown, stats = prepared(bench, QUESTION, render=Render.PLAIN)
    assert (shown, stats.rendered_rows) == ([AS_IT_IS], 0)
    assert prepared(bench, INSTRUCTED, render=Render.PLAIN)[0] == [f"be kind\n\n{AS_IT_IS}"]
    assert not [line for line in caplog.messages if "rendered" in line]


def test_a_model_without_a_chat_template_sees_the_text(tmp_path: Path) -> None:
    bench = Workbench(tmp_path, write_model_without_weights(tmp_path / "model", chat_template=None))
    shown, stats = prepared(bench, QUESTION)
    assert (shown, stats.rendered_rows) == ([AS_IT_IS], 0)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({**QUESTION, "completion": "open a file<|im_end|>\n"}, TURNS),
        (
            {"prompt": "<|im_start|>user\nitem?<|im_end|>\n<|im_start|>assistant\n", "completion": "file"},
            "<|im_start|>user\nitem?<|im_end|>\n<|im_start|>assistant\n>>file<|im_end|><<",
        ),
        (INSTRUCTED, f"<|im_start|>system\nbe kind<|im_end|>\n{TURNS}"),
        ({"prompt": "", "completion": "open a file"}, ">>open a file<|im_end|><<"),
        (
            {"prompt": [{"role": "user", "content": "item?"}], "completion": [{"role": "assistant", "content": "a"}]},
            "<|im_start|>user\nitem?<|im_end|>\n<|im_start|>assistant\n>>a<|im_end|><<\n",
        ),
    ],
    ids=["closed by the author", "rendered by the author", "system prompt", "no question", "messages"],
)
def test_what_is_rendered_already_or_asks_nothing_is_rendered_no_second_time(
    bench: Workbench, row: Mapping[str, Any], expected: str
) -> None:
    assert prepared(bench, row)[0] == [expected]


def test_an_alpaca_row_keeps_its_own_form(bench: Workbench) -> None:
    (shown,), stats = prepared(bench, {"instruction": "open", "output": "file"}, max_length=256)
    assert shown.endswith("### Response:\n>>file<|im_end|><<")
    assert stats.rendered_rows == 0


def test_what_a_row_template_makes_is_rendered_too(bench: Workbench) -> None:
    made = Preprocessing(template=RowTemplate(text=None, prompt="{{ q }}?", completion="{{ a }}"), function=None)
    beside = {"system": "be kind", "images": ["a.png"], "tools": [{"name": "f"}]}
    written = bench.write("d.jsonl", [{"q": "return the item", "a": "open a file", **beside}])
    base = bench.config(written, render=Render.AUTO)
    source = data_source(str(written), preprocessing=made)
    bench.run(replace(base, dataset=replace(base.dataset, sources=(source,))))
    tokenizer = load_tokenizer(bench.model, config().model)
    (row,) = bench.sequences()
    assert marked(Encoded("", row["input_ids"], row["labels"]), tokenizer) == TURNS


@pytest.mark.parametrize("loss_on", [LossOn.COMPLETION, LossOn.ASSISTANT])
def test_the_answer_is_trained_whatever_it_is_called(bench: Workbench, loss_on: LossOn) -> None:
    assert prepared(bench, QUESTION, loss_on=loss_on)[0] == [TURNS]


def test_a_template_that_cannot_be_trained_with_names_plain_as_a_way_out(tmp_path: Path) -> None:
    bench = Workbench(tmp_path, write_model_without_weights(tmp_path / "model", chat_template="{{ messages[0].role }}"))
    with pytest.raises(
        StageError, match=r"or write dataset\.render: plain to train prompt and completion as they are$"
    ):
        prepared(bench, QUESTION)
