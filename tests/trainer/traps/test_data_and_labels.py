"""Data that TRL's trainer reads otherwise than its author means, and what we make of the same rows."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract import layout
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import LossOn
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.tokens.label_report import marked
from sftjob_trainer.tokens.tokenizer import Encoded
from support.trainer.chats import named
from support.trainer.preparing import Workbench
from support.trainer.stock import STOCK_WARNS, stock_trainer
from support.trainer.tiny import END_OF_TEXT, TURN_END
from support.trainer.training import run_train

pytestmark = STOCK_WARNS

SYSTEM = {"role": "system", "content": "be kind"}
USER = {"role": "user", "content": "what does it do"}
ASSISTANT = {"role": "assistant", "content": "open a file"}
TALK = {"messages": [SYSTEM, USER, ASSISTANT]}
CHAT = (
    "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nwhat does it do<|im_end|>\n"
    "<|im_start|>assistant\n>>open a file<|im_end|><<\n"
)
"""TALK with what the assistant says between >> and <<."""


def shown(rows: Sequence[dict[str, list[int]]], model: Path) -> list[str]:
    """Rows as text, with >> and << around what is trained."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    return [marked(Encoded("", row["input_ids"], row["labels"]), tokenizer) for row in rows]


def theirs(bench: Workbench, rows: Sequence[Any], **options: Any) -> list[str]:
    """What TRL trains on."""
    trainer = stock_trainer(bench.model, rows, bench.root / "stock", **options)
    return shown(trainer.train_dataset.to_list(), bench.model)


def ours(bench: Workbench, rows: Sequence[Any], **options: Any) -> list[str]:
    """What we train on."""
    bench.prepare(bench.write("d.jsonl", rows), **options)
    return shown(bench.sequences(), bench.model)


def test_system_and_user_are_not_trained_where_trl_trains_every_token(bench: Workbench) -> None:
    [stock] = theirs(bench, [TALK])

    assert (stock[:2], stock[-2:]) == (">>", "<<")
    assert "<<" not in stock[2:-2]
    assert ours(bench, [TALK]) == [CHAT]


def test_a_template_without_markers_is_enough_where_trl_refuses_it(bench: Workbench) -> None:
    with pytest.raises(ValueError, match="not training-compatible"):
        theirs(bench, [TALK], assistant_only_loss=True)

    assert ours(bench, [TALK], loss_on=LossOn.ASSISTANT) == [CHAT]


def test_a_loss_on_completions_is_refused_for_conversations_where_trl_ignores_it(bench: Workbench) -> None:
    [stock] = theirs(bench, [TALK], completion_only_loss=True)

    assert "<<" not in stock[2:-2]
    with pytest.raises(StageError, match=r"^training\.lossOn: completion does not match conversations"):
        ours(bench, [TALK], loss_on=LossOn.COMPLETION)


def test_speakers_of_sharegpt_become_roles_where_trl_writes_them_as_they_are(bench: Workbench) -> None:
    speakers = [("system", SYSTEM), ("human", USER), ("gpt", ASSISTANT)]
    rows = [{"conversations": [{"from": name, "value": turn["content"]} for name, turn in speakers]}]
    [stock] = theirs(bench, rows)

    assert "<|im_start|>human\n" in stock
    assert "<|im_start|>gpt\n" in stock
    assert ours(bench, rows) == [CHAT]


ALPACA = {"instruction": "what does it do", "input": "", "output": "open a file"}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"conversations": TALK["messages"]}, CHAT),
        (ALPACA, f"### Instruction:\nwhat does it do\n\n### Response:\n>>open a file{TURN_END}<<"),
    ],
    ids=["conversations of role and content", "alpaca"],
)
def test_a_shape_is_known_where_trl_misses_a_text_column(bench: Workbench, row: Any, expected: str) -> None:
    with pytest.raises(KeyError, match="text"):
        theirs(bench, [row])

    [found] = ours(bench, [row], max_length=256)
    assert found.endswith(expected)


OBSCURE = [
    # rows, what TRL raises, what it says, what we say
    ([], StopIteration, "", "d.jsonl: the file has no rows"),
    (
        [{"text": "a"}, {"text": None}],
        AttributeError,
        "'NoneType' object has no attribute 'endswith'",
        'd.jsonl:2: "text" must be text, not null',
    ),
    (
        [{"text": "a"}, {"prompt": "a", "completion": "b"}],
        AttributeError,
        "'NoneType' object has no attribute 'endswith'",
        'd.jsonl:2: no column "text", there is "prompt", "completion"',
    ),
    (
        [{"messages": '[{"role": "user", "content": "a"}]'}],
        ValueError,
        "No columns in the dataset match the model's forward method signature",
        'd.jsonl:1: "messages" must be a list of {role, content} objects, not text',
    ),
    (
        [{"prompt": "a very long prompt " * 20, "completion": "short"}],
        ValueError,
        "num_samples should be a positive integer value, but got num_samples=0",
        (
            "d.jsonl:1 and every other row: no token to train on among the first 64 of the row; "
            "raise training.maxLength, or check that the chat template marks what the assistant writes"
        ),
    ),
]


@pytest.mark.parametrize(
    ("rows", "error", "words", "sentence"),
    OBSCURE,
    ids=["no rows", "null", "rows of two shapes", "messages as JSON text", "all cut"],
)
def test_bad_rows_are_told_with_their_line_where_trl_raises_something_obscure(
    bench: Workbench, rows: list[Any], error: type[Exception], words: str, sentence: str
) -> None:
    with pytest.raises(error, match=words):
        stock_trainer(bench.model, rows, bench.root / "stock").get_train_dataloader()

    with pytest.raises(StageError) as raised:
        ours(bench, rows)
    assert (raised.value.message, raised.value.reason) == (sentence, Reason.DATA_INVALID)


SILENT = [
    # rows, what TRL trains on, what we say
    (
        [{"text": ""}],
        [f">>{TURN_END}<<"],
        'd.jsonl:1: "text" is empty, so there is nothing to train on',
    ),
    (
        [{"text": "open a file", "messages": [USER]}],
        [">><|im_start|>user\nwhat does it do<|im_end|>\n<<"],
        "d.jsonl:1: the columns fit more than one format; set dataset.format to text or messages",
    ),
    (
        [{"messages": [USER]}],
        [">><|im_start|>user\nwhat does it do<|im_end|>\n<<"],
        'd.jsonl:1: "messages" has no assistant turn, so there is nothing to train on',
    ),
]


@pytest.mark.parametrize(
    ("rows", "stock", "sentence"), SILENT, ids=["empty text", "two shapes at once", "no assistant"]
)
def test_doubtful_rows_are_refused_where_trl_trains_on_something(
    bench: Workbench, rows: list[Any], stock: list[str], sentence: str
) -> None:
    assert theirs(bench, rows) == stock

    with pytest.raises(StageError) as raised:
        ours(bench, rows)
    assert raised.value.message == sentence


def test_rows_that_are_cut_or_left_out_are_counted_where_trl_says_nothing(
    bench: Workbench, caplog: pytest.LogCaptureFixture
) -> None:
    """Of the first row nothing to train on is left, of the second no end; only the third is whole."""
    caplog.set_level("INFO")
    rows = [
        {"prompt": "a very long prompt " * 20, "completion": "short"},
        {"prompt": "a", "completion": " return the first item of a list" * 9},
        {"prompt": "what does it do", "completion": " open a file"},
    ]
    stock = theirs(bench, rows)
    silent = caplog.text

    stats = bench.prepare(bench.write("d.jsonl", rows))

    assert (len(stock), TURN_END in stock[0], TURN_END in stock[1]) == (2, False, True)
    assert shown(bench.sequences(), bench.model) == stock
    assert "64" not in silent
    assert (stats.rows, stats.truncated_rows) == (2, 1)
    assert "left out, nothing to train on within the first 64 tokens: 1 rows" in caplog.text
    assert "cut at training.maxLength 64: 1 rows" in caplog.text


def test_a_given_template_leaves_the_vocabulary_alone_where_trl_resizes_it(bench: Workbench, tmp_path: Path) -> None:
    """A model may have more embeddings than its tokenizer has tokens, for example for a round number."""
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rounded = tmp_path / "rounded"
    shutil.copytree(bench.model, rounded)
    model = AutoModelForCausalLM.from_pretrained(rounded)
    model.resize_token_embeddings(1024)
    model.save_pretrained(rounded)
    assert len(AutoTokenizer.from_pretrained(rounded)) < 600

    stock = stock_trainer(rounded, [TALK], tmp_path / "stock", chat_template_path=str(bench.model))
    config = bench.config(bench.write("d.jsonl", [TALK]), model=str(rounded), max_steps=1)
    config = replace(config, model=replace(config.model, chat_template=named("zephyr")))
    bench.run(config)
    outcome = run_train(bench.volume, config)

    assert len(stock.model.get_input_embeddings().weight) < 600
    assert outcome.exit_code is ExitCode.DONE
    weights = load_file(bench.volume / layout.OUTPUT_MODEL / "model.safetensors")
    assert len(weights["model.embed_tokens.weight"]) == 1024


def test_a_tokenizer_without_padding_still_learns_to_stop(bench: Workbench, tmp_path: Path) -> None:
    """Then the end of sequence fills rows up: its labels are lost only where it is padding, in TRL as with us."""
    from transformers import AutoTokenizer

    bare = tmp_path / "bare"
    shutil.copytree(bench.model, bare)
    tokenizer = AutoTokenizer.from_pretrained(bare)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(bare)
    rows = [{"text": "open a file"}, {"text": "return the first item of a list"}]

    stock = stock_trainer(bare, rows, tmp_path / "stock", per_device_train_batch_size=2)
    bench.prepare(bench.write("d.jsonl", rows), model=str(bare))
    trained = [row["labels"][-1] for row in bench.sequences()]

    assert stock.processing_class.pad_token == TURN_END != END_OF_TEXT
    [batch] = stock.get_train_dataloader()
    assert [int((labels == tokenizer.eos_token_id).sum()) for labels in batch["labels"]] == [1, 1]
    assert trained == [tokenizer.eos_token_id] * 2


TOLD = (
    "the Qwen2Tokenizer that transformers makes for this model splits text differently than its tokenizer.json; "
    "trained is what transformers makes of it, and that tokenizer is kept with the output"
)


def test_a_tokenizer_that_transformers_makes_otherwise_is_told_where_it_is_silent(
    bench: Workbench, llama: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """For a known model type transformers has rules of its own for where words end, whatever the file says."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    caplog.set_level("INFO")
    text = "files 12"
    found = {}
    for model in (bench.model, llama):
        file = Tokenizer.from_file(str(model / "tokenizer.json"))
        found[model] = AutoTokenizer.from_pretrained(model)(text)["input_ids"] == file.encode(text).ids
    silent = caplog.text

    bench.prepare(bench.write("d.jsonl", [{"text": text}]), model=str(llama))
    fine = caplog.text
    bench.prepare(bench.write("d.jsonl", [{"text": text}]))

    assert found == {bench.model: False, llama: True}
    assert "tokenizer.json" not in silent + fine
    assert f"      {TOLD}" in caplog.messages
