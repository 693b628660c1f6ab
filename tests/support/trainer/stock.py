"""TRL's own trainer with nothing of ours around it, to show what it does with an input that we treat otherwise."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

STOCK_WARNS: Final = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"
)
"""TRL, PEFT and transformers warn about their own use of one another."""


def stock_trainer(
    model: Any,
    rows: Sequence[Mapping[str, Any]],
    output: Path,
    *,
    trainer: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """`trl.SFTTrainer` as a script would make it; `options` are fields of SFTConfig, `trainer` further arguments.

    `model` is a directory or a loaded model. Only what makes a run small and quiet differs from TRL's defaults.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    usual: dict[str, Any] = {
        "bf16": False,
        "activation_checkpointing": False,
        "max_length": 64,
        "logging_steps": 1,
        "disable_tqdm": True,
        "save_strategy": "no",
    }
    args = SFTConfig(
        output_dir=str(output), dataloader_pin_memory=False, report_to=[], **{"use_cpu": True, **usual, **options}
    )
    given = str(model) if isinstance(model, Path) else model
    return SFTTrainer(model=given, args=args, train_dataset=Dataset.from_list(list(rows)), **(trainer or {}))


def logged(trainer: Any, name: str) -> list[float]:
    """Every value of `name` that the stock trainer logged."""
    return [entry[name] for entry in trainer.state.log_history if name in entry]
