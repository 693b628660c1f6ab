"""Options of DDP: what they save is saved, and weights without a gradient are searched for only where there are any."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sftjob_contract.run.config import RunConfig
from sftjob_trainer.distributed.world import SINGLE_PROCESS, World
from sftjob_trainer.training.ddp import leaves_weights_unused, tune_ddp
from support.trainer.tiny import lora
from support.trainer.training import PEFT_IS_BEHIND, build_trainer, job

pytestmark = PEFT_IS_BEHIND
TWO = World(rank=0, size=2)


@pytest.fixture(autouse=True)
def _group() -> Iterator[None]:
    """A group of one process that DDP can use."""
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
    yield
    torch.distributed.destroy_process_group()


def tuned(volume: Path, config: RunConfig) -> Any:
    trainer = build_trainer(volume, config)
    tune_ddp(trainer, TWO)
    return trainer


def test_gradients_are_views_of_the_buckets(qwen2: Path, tmp_path: Path) -> None:
    trainer = tuned(tmp_path, job(qwen2, max_steps=1))
    model = torch.nn.parallel.DistributedDataParallel(trainer.model, **trainer.accelerator.ddp_handler.to_kwargs())

    ids = torch.tensor([[3, 1, 4, 1, 5]])
    model(input_ids=ids, labels=ids).loss.backward()

    gradients = [weights.grad for weights in trainer.model.parameters()]
    assert len({gradient.untyped_storage().data_ptr() for gradient in gradients}) < len(gradients)


@pytest.mark.parametrize("options", [{}, {"method": lora()}, {"method": lora(), "gradient_checkpointing": True}])
def test_no_weights_without_a_gradient_are_searched_for_where_all_have_one(
    qwen2: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    trainer = build_trainer(tmp_path, job(qwen2, max_steps=1, **options))
    state = torch.random.get_rng_state()

    tune_ddp(trainer, TWO)

    assert trainer.accelerator.ddp_handler.find_unused_parameters is False
    assert all(weights.grad is None for weights in trainer.model.parameters())
    assert torch.equal(state, torch.random.get_rng_state())


def test_weights_that_some_steps_leave_out_are_searched_for(qwen2: Path, tmp_path: Path) -> None:
    trainer = build_trainer(tmp_path, job(qwen2, max_steps=1))
    trainer.model.register_parameter("of_an_expert", torch.nn.Parameter(torch.zeros(3)))

    assert leaves_weights_unused(trainer.model)
    tune_ddp(trainer, TWO)
    assert trainer.accelerator.ddp_handler.find_unused_parameters is True


def test_layers_that_are_skipped_at_random_are_searched_for(qwen2: Path, tmp_path: Path) -> None:
    trainer = build_trainer(tmp_path, job(qwen2, max_steps=1))
    trainer.model.config.layerdrop = 0.1

    assert leaves_weights_unused(trainer.model)


def test_one_process_has_nothing_to_tune(qwen2: Path, tmp_path: Path) -> None:
    trainer = build_trainer(tmp_path, job(qwen2, max_steps=1))
    tune_ddp(trainer, SINGLE_PROCESS)

    assert trainer.accelerator.ddp_handler.gradient_as_bucket_view is False
