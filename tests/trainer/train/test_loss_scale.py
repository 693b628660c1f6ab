"""fp16 that overflows again and again: usual while the loss scale is being found, and no end of its own without it."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.reasons import Reason
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.training.loss_scale import MIN_SCALE, LossScale

FIRST_SCALE = 2.0**16


def train(overflows: Callable[[int], bool], *, steps: int, trained: bool = False) -> Any:
    """Steps of accelerate's optimizer with torch's loss scaling, on the CPU; returns the scaler."""
    import torch
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer

    Accelerator(cpu=True)
    weight = torch.nn.Parameter(torch.ones(1))
    scaler = torch.amp.GradScaler("cpu")
    optimizer = AcceleratedOptimizer(torch.optim.SGD([weight], lr=0.0), device_placement=False, scaler=scaler)
    scale = LossScale(trained=trained)
    for step in range(1, steps + 1):
        loss = (weight * (math.inf if overflows(step) else 1.0)).sum()
        scaler.scale(loss).backward()
        optimizer.step()
        optimizer.zero_grad()
        scale.after_step(optimizer, step, last=step == steps)
    return scaler


def test_the_first_scale_is_the_one_that_the_limit_is_counted_from() -> None:
    assert train(lambda _: False, steps=1).get_scale() == FIRST_SCALE


def test_steps_that_are_passed_over_while_the_scale_is_found_are_usual() -> None:
    assert train(lambda step: step <= 10, steps=20).get_scale() == FIRST_SCALE / 2**10


def test_now_and_then_an_overflow_is_no_divergence_even_in_the_last_step() -> None:
    assert train(lambda step: step % 4 == 0, steps=40).get_scale() == FIRST_SCALE / 2**10


def test_overflow_in_every_step_is_divergence_once_the_scale_is_below_the_least() -> None:
    reached = []

    def overflows(step: int) -> bool:
        reached.append(step)
        return True

    with pytest.raises(StageError) as failure:
        train(overflows, steps=1000)

    assert (failure.value.reason, failure.value.exit_code) == (Reason.DIVERGED, ExitCode.DIVERGED)
    assert reached[-1] == 30 == math.floor(math.log2(FIRST_SCALE / MIN_SCALE)) + 1
    assert (
        "up to step 30 gradients overflow in fp16, though the loss is scaled by only 6.1e-05" in failure.value.message
    )
    assert "write training.precision: bf16 where the GPU has it" in failure.value.message


@pytest.mark.parametrize(("trained", "diverged"), [(False, True), (True, False)])
def test_a_short_run_that_took_no_step_at_all_is_no_success(trained: bool, diverged: bool) -> None:
    if diverged:
        with pytest.raises(StageError, match="up to step 5 gradients overflow"):
            train(lambda _: True, steps=5, trained=trained)
    else:
        train(lambda _: True, steps=5, trained=trained)


def test_without_a_scaler_no_step_is_ever_passed_over() -> None:
    import torch
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer

    Accelerator(cpu=True)
    optimizer = AcceleratedOptimizer(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))]), device_placement=False)
    optimizer.step()

    LossScale(trained=False).after_step(optimizer, 1, last=True)
    assert not optimizer.step_was_skipped
