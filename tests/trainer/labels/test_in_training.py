"""The chat template and the padding of a run, seen from its end."""

from dataclasses import replace
from pathlib import Path

import pytest

from sftjob_contract import layout
from sftjob_contract.run.config import PaddingSide
from sftjob_trainer.training.collation import LeftPadding
from support.trainer.chats import messages, named
from support.trainer.preparing import Workbench
from support.trainer.tiny import held_out_fraction, lora
from support.trainer.training import PEFT_IS_BEHIND, build_trainer, job, run_train

ROWS = [
    {"messages": [{"role": "user", "content": f"{number}?"}, {"role": "assistant", "content": "yo"}]}
    for number in range(8)
]


@pytest.mark.parametrize("method", [None, lora()], ids=["full", "lora"])
@PEFT_IS_BEHIND
def test_the_output_carries_the_template_that_it_was_trained_with(tmp_path: Path, qwen2: Path, method: object) -> None:
    from transformers import AutoTokenizer

    bench = Workbench(tmp_path, qwen2)
    config = bench.config(bench.write("d.jsonl", ROWS), method=method, held_out=held_out_fraction(0.0), max_steps=1)
    config = replace(config, model=replace(config.model, chat_template=named("zephyr")))
    bench.run(config)
    output = run_train(bench.volume, config).output
    assert output is not None
    assert output.path == (layout.OUTPUT_MODEL if method is None else layout.OUTPUT_ADAPTER)
    tokenizer = AutoTokenizer.from_pretrained(bench.volume / output.path)
    assert "generation %" not in tokenizer.chat_template
    asked = tokenizer.apply_chat_template(
        list(messages(("system", "be kind"), ("user", "0?"))), tokenize=False, add_generation_prompt=True
    )
    assert asked == "<|system|>\nbe kind<|im_end|>\n<|user|>\n0?<|im_end|>\n<|assistant|>\n"


@pytest.mark.parametrize(
    ("side", "packing", "left"), [("left", False, True), ("right", False, False), ("left", True, False)]
)
def test_rows_are_filled_up_where_the_config_says(
    tmp_path: Path, qwen2: Path, side: str, packing: bool, left: bool
) -> None:
    config = job(qwen2, packing=packing)
    config = replace(config, model=replace(config.model, padding_side=PaddingSide(side)))
    trainer = build_trainer(tmp_path, config)
    assert isinstance(trainer.data_collator, LeftPadding) is left
    batch = next(iter(trainer.get_train_dataloader()))
    if not packing:
        first, last = batch["attention_mask"][:, 0].min(), batch["attention_mask"][:, -1].min()
        assert (int(first), int(last)) == ((0, 1) if left else (1, 0))
