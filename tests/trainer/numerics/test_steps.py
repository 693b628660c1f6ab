"""What a step computes does not depend on how its rows are divided up."""

from pathlib import Path
from typing import Any

import pytest

from sftjob_contract import layout
from support.trainer.tiny import lora
from support.trainer.training import PEFT_IS_BEHIND, build_trainer, finish, job, token_mean_loss

pytestmark = PEFT_IS_BEHIND


def weights(volume: Path) -> dict[str, Any]:
    """What a run left as its output."""
    from safetensors.torch import load_file

    [path] = (volume / layout.OUTPUT).rglob("*.safetensors")
    return dict(load_file(path))


@pytest.mark.parametrize("options", [{}, {"method": lora()}, {"packing": True}], ids=["full", "LoRA", "packed"])
def test_weights_after_eight_small_batches_a_step_are_those_after_one_large(
    qwen2: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Adam divides by the size of gradients, so where they are near zero it magnifies the last digits of a sum."""
    import torch

    for batch, accumulation in ((8, 1), (1, 8)):
        config = job(
            qwen2,
            per_device_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            max_steps=3,
            learning_rate=1e-3,
            **options,
        )
        finish(tmp_path / str(batch), config)

    large, small = weights(tmp_path / "8"), weights(tmp_path / "1")
    for name, tensor in large.items():
        torch.testing.assert_close(small[name], tensor, rtol=0, atol=1e-5)


def test_the_evaluation_loss_is_the_mean_over_tokens_by_definition(qwen2: Path, tmp_path: Path) -> None:
    """Rows of different length, batches of which the last is not full."""
    from transformers import AutoModelForCausalLM

    run = finish(tmp_path / "run", job(qwen2, max_steps=1, per_device_batch_size=4, evaluate_every=1))
    expected = token_mean_loss(AutoModelForCausalLM.from_pretrained(run.volume / layout.OUTPUT_MODEL).eval(), run)

    losses = [
        build_trainer(
            tmp_path / str(size), job(run.volume / layout.OUTPUT_MODEL, max_steps=1, per_device_batch_size=size)
        ).evaluate()["eval_loss"]
        for size in (1, 2, 5)
    ]

    assert run.outcome.output is not None
    assert [run.outcome.output.metrics["evalLoss"], *losses] == pytest.approx([expected] * 4, abs=1e-6)
