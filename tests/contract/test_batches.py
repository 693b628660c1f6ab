"""A batch goes through the model in the layout that is fastest for its attention, and is the same optimizer step."""

import math
from dataclasses import replace

import pytest

from sftjob_contract.run.batches import micro_batches
from sftjob_contract.run.config import Attention, PackingStrategy, RunConfig
from support.trainer.tiny import run_config

BFD, BFD_SPLIT, WRAPPED = PackingStrategy.BFD, PackingStrategy.BFD_SPLIT, PackingStrategy.WRAPPED


def config(
    attention: Attention, strategy: PackingStrategy | None, batch: int, accumulation: int, gpus: int
) -> RunConfig:
    made = run_config(
        model="m",
        dataset="d",
        packing=strategy is not None,
        packing_strategy=strategy or BFD,
        per_device_batch_size=batch,
        gradient_accumulation_steps=accumulation,
    )
    return replace(made, gpus=gpus, model=replace(made.model, attention=attention))


@pytest.mark.parametrize(
    ("attention", "strategy", "batch", "accumulation", "expected"),
    [
        (Attention.AUTO, None, 4, 2, (4, 2)),
        (Attention.AUTO, BFD, 4, 2, (4, 2)),
        (Attention.AUTO, BFD, 1, 1, (1, 1)),
        (Attention.SDPA, BFD, 4, 2, (1, 8)),
        (Attention.EAGER, BFD, 4, 2, (1, 8)),
        (Attention.FLEX_ATTENTION, BFD, 4, 2, (1, 8)),
        (Attention.FLASH_ATTENTION_2, BFD, 4, 2, (4, 2)),
        (Attention.FLASH_ATTENTION_3, BFD, 4, 2, (4, 2)),
        (Attention.AUTO, BFD_SPLIT, 4, 2, (4, 2)),
        (Attention.SDPA, BFD_SPLIT, 4, 2, (1, 8)),
        (Attention.AUTO, WRAPPED, 4, 2, (4, 2)),
    ],
)
def test_on_gpus_packed_sequences_go_one_at_a_time_where_the_config_asks_for_attention_to_the_whole_row(
    attention: Attention, strategy: PackingStrategy | None, batch: int, accumulation: int, expected: tuple[int, int]
) -> None:
    found = micro_batches(config(attention, strategy, batch, accumulation, gpus=2))

    assert found == expected
    assert math.prod(found) == batch * accumulation


@pytest.mark.parametrize(("strategy", "expected"), [(None, (4, 2)), (BFD, (1, 8)), (WRAPPED, (4, 2))])
def test_on_a_cpu_and_where_the_model_has_only_such_attention_sequences_packed_by_best_fit_go_one_at_a_time(
    strategy: PackingStrategy | None, expected: tuple[int, int]
) -> None:
    assert micro_batches(config(Attention.AUTO, strategy, 4, 2, gpus=0)) == expected
    assert micro_batches(config(Attention.AUTO, strategy, 4, 2, gpus=1), dense=True) == expected
