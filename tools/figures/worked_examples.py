"""The worked examples of docs/concepts.md, computed by the functions that prepare, plan and train."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sftjob_contract.reports.model_shape import LinearShape
from sftjob_contract.run.config import RunConfig
from sftjob_operator.api import parse_job
from sftjob_operator.render import run_config
from sftjob_trainer.rows.steps import held_out_rows, max_steps, steps_per_epoch
from sftjob_trainer.run.sft_config import warmup_steps

ROWS: Final = 2000
RANK: Final = 8
HIDDEN: Final = 896
KEY_VALUE: Final = 2 * 64
LAYERS: Final = 24
ATTENTION: Final = tuple(
    LinearShape(name=name, in_features=HIDDEN, out_features=out_features, count=LAYERS)
    for name, out_features in (("q_proj", HIDDEN), ("k_proj", KEY_VALUE), ("v_proj", KEY_VALUE), ("o_proj", HIDDEN))
)
"""The attention of Qwen2.5-0.5B: 14 query heads and 2 key-value heads of 64."""


def config(training: Mapping[str, Any] | None = None, gpus: int = 1) -> RunConfig:
    """The run config of an SFTJob with the defaults and these fields of `training`."""
    spec = {
        "model": {"source": "hf://Qwen/Qwen2.5-0.5B"},
        "dataset": {"source": "pvc://datasets/train.jsonl"},
        "method": {"lora": {}},
        "training": dict(training or {}),
        "resources": {"gpus": gpus},
    }
    return run_config(parse_job({"metadata": {"name": "example", "namespace": "docs", "uid": "docs"}, "spec": spec}))


@dataclass(frozen=True, kw_only=True)
class Steps:
    """How `ROWS` rows become optimizer steps with the defaults."""

    held_out: int
    trained: int
    micro_batches: int
    per_epoch: int
    last: int
    """Rows of the last step of an epoch."""
    total: int
    warmup: int


def steps(sequences: int | None = None, gpus: int = 1) -> Steps:
    """Count the steps of the worked example; `sequences`: as many packed ones instead of the rows."""
    example = config(gpus=gpus)
    held_out = len(held_out_rows(ROWS, example.dataset.evaluation.fraction or 0.0, example.dataset.shuffle_seed))
    trained = ROWS - held_out if sequences is None else sequences
    per_epoch = steps_per_epoch(trained, example.training, gpus)
    total = max_steps(per_epoch, example.training)
    batch = example.training.per_device_batch_size * example.training.gradient_accumulation_steps * gpus
    return Steps(
        held_out=held_out,
        trained=trained,
        micro_batches=math.ceil(trained / (example.training.per_device_batch_size * gpus)),
        per_epoch=per_epoch,
        last=trained - (per_epoch - 1) * batch,
        total=total,
        warmup=warmup_steps(example.training, total),
    )


def learning_rates() -> list[float]:
    """The learning rate of each step of the worked example, as transformers' scheduler computes it."""
    example, counted = config().training, steps()
    rates = []
    for done in range(counted.total):
        if done < counted.warmup:
            share = done / counted.warmup
        else:
            share = (1 + math.cos(math.pi * (done - counted.warmup) / (counted.total - counted.warmup))) / 2
        rates.append(example.learning_rate * share)
    return rates


def lora_parameters(layer: LinearShape, rank: int = RANK) -> int:
    """Parameters of A and B of one layer: rank x (in + out)."""
    return rank * (layer.in_features + layer.out_features)
