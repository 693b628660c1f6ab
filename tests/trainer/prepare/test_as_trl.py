"""What we prepare is what TRL's own trainer would have made of the same rows, and how long it would have run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract.run.config import ChatTemplateName, LossOn
from support.trainer.chats import named, use_template
from support.trainer.preparing import Workbench
from support.trainer.tiny import held_out_fraction

TEXTS = [{"text": f"open file {number} " * (1 + number % 5)} for number in range(30)]
COMPLETIONS = [{"prompt": f"what is {number}? ", "completion": "a number " * (1 + number % 9)} for number in range(30)]
MESSAGES = [
    {
        "messages": [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": f"what is {number}?"},
            {"role": "assistant", "content": "a number " * (1 + number % 9)},
            {"role": "user", "content": "and then"},
            {"role": "assistant", "content": "the next"},
        ]
    }
    for number in range(30)
]
PROMPTED = [
    {
        "prompt": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}, *row["messages"][1:2]],
        "completion": row["messages"][2:],
    }
    for row in MESSAGES
]
"""Messages too, with an assistant's turn among those of the prompt."""

QUICK = ("chatml", "llama")
TEMPLATES = [
    pytest.param(name.value, marks=() if name.value in QUICK else pytest.mark.slow) for name in ChatTemplateName
]
LINE_AFTER_TURN = ("chatml", "zephyr")
"""Templates that end with an end of line."""


def trl_trainer(model: Path, rows: list[Any], output: Path, template: str | None = None, **options: Any) -> Any:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    options = {"max_length": 64, **options}
    arguments = SFTConfig(
        output_dir=str(output),
        use_cpu=True,
        bf16=False,
        report_to=[],
        activation_checkpointing=False,
        dataloader_pin_memory=False,
        **options,
    )
    tokenizer = AutoTokenizer.from_pretrained(model)
    if template is not None:
        use_template(tokenizer, template)
    return SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(model),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize(
    ("rows", "options"),
    [(TEXTS, {}), (COMPLETIONS, {}), (MESSAGES, {"assistant_only_loss": True})],
    ids=["text", "prompt-completion", "messages"],
)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_rows_labels_and_steps_are_those_of_trl(
    bench: Workbench, llama: Path, rows: list[Any], options: dict[str, Any], packing: bool
) -> None:
    stats = bench.prepare(
        bench.write("d.jsonl", rows),
        model=str(llama),
        held_out=held_out_fraction(0.0),
        packing=packing,
        per_device_batch_size=2,
        gradient_accumulation_steps=3,
        epochs=2.5,
    )
    trainer = trl_trainer(
        llama,
        rows,
        bench.root / "trl",
        packing=packing,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=3,
        num_train_epochs=2.5,
        **options,
    )
    theirs = trainer.train_dataset.select_columns(["input_ids", "labels", *(["seq_lengths"] if packing else [])])
    assert bench.sequences() == theirs.to_list()
    steps = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    assert (stats.steps_per_epoch, stats.max_steps) == (steps[1], steps[-1])


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize(
    ("loss_on", "rows", "options"),
    [
        (LossOn.ASSISTANT, MESSAGES, {"assistant_only_loss": True}),
        (LossOn.ALL, MESSAGES, {}),
        (LossOn.ASSISTANT, PROMPTED, {"assistant_only_loss": True}),
        (LossOn.COMPLETION, PROMPTED, {}),
        (LossOn.ALL, PROMPTED, {"completion_only_loss": False}),
        (LossOn.COMPLETION, COMPLETIONS, {}),
        (LossOn.ALL, COMPLETIONS, {"completion_only_loss": False}),
        (LossOn.ALL, TEXTS, {}),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_every_loss_of_every_shape_is_that_of_trl(
    bench: Workbench, llama: Path, template: str, loss_on: LossOn, rows: list[Any], options: dict[str, Any]
) -> None:
    data = bench.write("d.jsonl", rows[:5])
    config = bench.config(data, model=str(llama), loss_on=loss_on, max_length=512)
    bench.run(replace(config, model=replace(config.model, chat_template=named(template))))
    theirs = trl_trainer(
        llama, rows[:5], bench.root / "trl", template, max_length=512, **options
    ).train_dataset.to_list()
    ours = bench.sequences()
    assert [row["input_ids"] for row in ours] == [row["input_ids"] for row in theirs]
    tail = 1 if template in LINE_AFTER_TURN and (loss_on, rows) == (LossOn.COMPLETION, PROMPTED) else 0
    if tail:
        # TRL trains on the end of line after the last stop token, where nothing is generated any more.
        assert {row["labels"][-1] for row in ours} == {-100}
    for our, their in zip(ours, theirs, strict=True):
        end = len(our["labels"]) - tail
        assert our["labels"][:end] == their["labels"][:end]
