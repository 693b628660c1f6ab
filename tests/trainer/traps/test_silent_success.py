"""Runs that end as a success although nothing was learned, or something else was than what was asked for."""

import math
from pathlib import Path

from sftjob_trainer.preflight.extra_options import extra_problems
from support.trainer.stock import STOCK_WARNS, logged, stock_trainer
from support.trainer.tiny import run_config
from support.trainer.training import documents

pytestmark = STOCK_WARNS

ROWS = [{"input_ids": ids, "labels": ids} for ids in documents(6, seed=1)]


def test_a_stock_run_that_diverges_ends_well_with_a_loss_of_zero(qwen2: Path, tmp_path: Path) -> None:
    """Our side: a run that diverges ends before it saves nonsense."""
    trainer = stock_trainer(
        qwen2, ROWS, tmp_path, learning_rate=1e30, max_steps=4, per_device_train_batch_size=2, warmup_steps=0
    )

    trainer.train()

    assert trainer.state.global_step == 4
    assert logged(trainer, "loss")[-1] == 0.0
    assert math.isnan(logged(trainer, "grad_norm")[-1])


def test_a_stock_run_that_drops_its_only_batch_takes_no_step(qwen2: Path, tmp_path: Path) -> None:
    trainer = stock_trainer(
        qwen2, ROWS, tmp_path, dataloader_drop_last=True, per_device_train_batch_size=8, max_steps=3
    )

    trainer.train()

    assert trainer.state.global_step == 0
    assert logged(trainer, "train_loss") == [0.0]
    assert list(extra_problems(run_config(model="m", dataset="d", extra={"dataloader_drop_last": True}))) == [
        (
            "training.extra.dataloader_drop_last cannot be set here: "
            "remove it, since the number of steps and the order of the data are known before the run"
        )
    ]


def test_peft_passes_over_a_layer_that_is_not_there(qwen2: Path) -> None:
    """Our side: a name that is no layer is refused with the names that are."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(target_modules=["q_proj", "no_such_layer"], task_type="CAUSAL_LM")

    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(qwen2), config)

    names = {name.split(".")[-4] for name, one in adapted.named_parameters() if one.requires_grad}
    assert names == {"q_proj"}
