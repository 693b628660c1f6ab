"""What we prepare is what TRL's own trainer would have made of the same rows, and how long it would have run."""

from pathlib import Path
from typing import Any

import pytest

from support.preparing import Workbench
from support.tiny import held_out_fraction

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


def trl_trainer(model: Path, rows: list[Any], output: Path, **options: Any) -> Any:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(
        output_dir=str(output),
        max_length=64,
        use_cpu=True,
        bf16=False,
        report_to=[],
        activation_checkpointing=False,
        dataloader_pin_memory=False,
        **options,
    )
    return SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(model),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(model),
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
