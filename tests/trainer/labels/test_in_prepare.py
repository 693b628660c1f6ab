"""Labels and chat templates through the Prepare stage, and what is left for training."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from sftjob_contract import layout
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.run.config import ChatTemplate, LossOn, RunConfig
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.tokens.chat_template import load_chat_template
from sftjob_trainer.tokens.label_report import marked
from sftjob_trainer.tokens.template_rendering import without_markers
from sftjob_trainer.tokens.tokenizer import NOT_TRAINED, Encoded, load_prepared_tokenizer, load_tokenizer
from support.trainer.chats import named, write_plain_tokenizer
from support.trainer.preparing import Workbench
from support.trainer.tiny import CHATML, CHATML_GENERATION, write_model_without_weights

ROWS = [
    {"messages": [{"role": "user", "content": f"{number}?"}, {"role": "assistant", "content": "yo " * number + "yo"}]}
    for number in range(12)
]


@pytest.fixture
def bench(tmp_path: Path, model_without_weights: Path) -> Workbench:
    return Workbench(tmp_path, model_without_weights)


def with_template(config: RunConfig, template: ChatTemplate) -> RunConfig:
    return replace(config, model=replace(config.model, chat_template=template))


def own(jinja: str) -> ChatTemplate:
    return ChatTemplate(name=None, jinja=jinja, file=None)


def texts(bench: Workbench, config: RunConfig) -> list[str]:
    tokenizer = load_tokenizer(Path(config.model.source), config.model)
    return [marked(Encoded("", row["input_ids"], row["labels"]), tokenizer) for row in bench.sequences()]


def refusal(bench: Workbench, config: RunConfig) -> str:
    with pytest.raises(StageError) as raised:
        bench.run(config)
    assert raised.value.exit_code is ExitCode.INVALID
    return raised.value.message


def test_a_named_template_serves_a_tokenizer_that_has_none(bench: Workbench, tmp_path: Path) -> None:
    model = write_model_without_weights(tmp_path / "base", chat_template=None)
    write_plain_tokenizer(model)
    config = with_template(bench.config(bench.write("d.jsonl", ROWS[:2]), model=str(model)), named("chatml"))
    bench.run(config)
    assert texts(bench, config) == [
        "<|im_start|>user\n0?<|im_end|>\n<|im_start|>assistant\n>>yo<|endoftext|><<\n",
        "<|im_start|>user\n1?<|im_end|>\n<|im_start|>assistant\n>>yo yo<|endoftext|><<\n",
    ]


def test_a_template_of_a_config_map_is_read_in_prepare_and_left_for_training(bench: Workbench, tmp_path: Path) -> None:
    path = tmp_path / "own.jinja"
    path.write_text(CHATML_GENERATION.replace("assistant\n'", "bot\n'"))
    config = with_template(
        bench.config(bench.write("d.jsonl", ROWS[:1])), ChatTemplate(name=None, jinja=None, file=str(path))
    )
    bench.run(config)
    assert texts(bench, config) == ["<|im_start|>user\n0?<|im_end|>\n<|im_start|>bot\n>>yo<|im_end|><<\n"]
    text = path.read_text()
    path.unlink()
    left = load_prepared_tokenizer(bench.model, config.model, bench.volume)
    assert left.chat_template == without_markers(text)


def test_without_a_template_of_the_job_the_models_own_is_left_alone(bench: Workbench) -> None:
    config = bench.config(bench.write("d.jsonl", ROWS[:1]))
    bench.run(config)
    assert not (bench.volume / layout.PREPARED_CHAT_TEMPLATE).exists()
    assert load_prepared_tokenizer(bench.model, config.model, bench.volume).chat_template == CHATML


def test_a_template_that_does_not_compile_ends_the_job(bench: Workbench) -> None:
    config = with_template(bench.config(bench.write("d.jsonl", ROWS)), own("{% for m in messages %}\n{% if %}"))
    assert refusal(bench, config).startswith("model.chatTemplate.jinja: line 2: ")


def test_the_loss_can_be_on_everything(bench: Workbench) -> None:
    bench.prepare(bench.write("d.jsonl", ROWS), loss_on=LossOn.ALL)
    assert all(row["labels"] == row["input_ids"] for row in bench.sequences())


def test_a_loss_that_does_not_suit_the_rows_ends_the_job(bench: Workbench) -> None:
    config = bench.config(bench.write("d.jsonl", [{"text": "a"}]), loss_on=LossOn.ASSISTANT)
    assert refusal(bench, config).startswith("training.lossOn: assistant does not match rows of text")


def test_a_model_that_would_not_learn_to_stop_ends_the_job(bench: Workbench) -> None:
    unclosed = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    config = with_template(bench.config(bench.write("d.jsonl", ROWS)), own(unclosed))
    assert refusal(bench, config).startswith("no token that generation stops at (<|im_end|>) is trained")


def test_rows_that_are_all_cut_before_their_end_end_the_job(bench: Workbench) -> None:
    long = [{"prompt": "a", "completion": "yo " * 90}] * 3
    config = bench.config(bench.write("d.jsonl", long))
    assert "every row is cut at training.maxLength 64" in refusal(bench, config)
    unclosed = replace(config, model=replace(config.model, add_eos_token=False))
    assert bench.run(unclosed).truncated_rows == 3


def test_rows_without_a_token_to_train_on_end_the_job(bench: Workbench) -> None:
    rows = [{"prompt": "why " * 90, "completion": "yo"}]
    assert "no token to train on" in refusal(bench, bench.config(bench.write("d.jsonl", rows)))


def test_the_report_and_examples_are_for_people(bench: Workbench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        bench.prepare(bench.write("d.jsonl", ROWS))
    assert "stop tokens trained: <|im_end|> 12 times" in caplog.text
    # 16 tokens, and 3 for each more "yo ".
    assert "rows by maximum number of tokens: 16: 1, 32: 5, 64: 6" in caplog.text
    assert (bench.volume / layout.PREPARED_REPORT).read_text(encoding="utf-8") == (
        "stop tokens trained: <|im_end|> 12 times\nrows by maximum number of tokens: 16: 1, 32: 5, 64: 6\n"
    )
    shown = (bench.volume / layout.PREPARED_EXAMPLES).read_text(encoding="utf-8")
    assert shown.startswith(
        "--- row 1, trained between >> and <<\n"
        "<|im_start|>user\n0?<|im_end|>\n<|im_start|>assistant\n>>yo<|im_end|><<\n\n--- row 2"
    )
    assert shown.count("--- row") == 10


def test_a_template_that_the_rows_do_not_need_is_told(bench: Workbench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        bench.run(with_template(bench.config(bench.write("d.jsonl", [{"text": "a"}])), named("zephyr")))
    assert "model.chatTemplate: not used for rows of format text, only left with the model" in caplog.text
    tokenizer = load_tokenizer(bench.model, bench.config("x").model)
    left = (bench.volume / layout.PREPARED_CHAT_TEMPLATE).read_text()
    assert left == without_markers(load_chat_template(named("zephyr"), tokenizer))


@pytest.mark.parametrize("loss_on", [None, LossOn.ALL])
def test_rows_are_cut_and_filled_up_without_training_on_either(bench: Workbench, loss_on: LossOn | None) -> None:
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from sftjob_trainer.training.collation import LeftPadding

    rows = [*ROWS[:3], {"messages": [*ROWS[0]["messages"][:1], {"role": "assistant", "content": "yo " * 90}]}]
    bench.prepare(bench.write("d.jsonl", rows), loss_on=loss_on)
    sequences = bench.sequences()
    assert [len(row["input_ids"]) <= 64 for row in sequences] == [True] * 4
    cut = sequences[3]
    assert len(cut["input_ids"]) == len(cut["labels"]) == 64
    assert cut["labels"][-1] == cut["input_ids"][-1]

    for collator in (DataCollatorForLanguageModeling(pad_token_id=0), LeftPadding(pad_token_id=0)):
        batch = collator(sequences)
        padding = batch["attention_mask"] == 0
        assert padding.sum() == sum(64 - len(row["input_ids"]) for row in sequences)
        assert (batch["labels"][padding] == NOT_TRAINED).all()
        kept = batch["labels"] != NOT_TRAINED
        assert (batch["labels"][kept] == batch["input_ids"][kept]).all()
