"""fp16: a step whose gradients overflow is passed over and the loss scaled by half as much, but not for ever."""

from typing import Any, Final

from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure

LEAST_SCALE: Final = 1e-4
"""That of fairseq (--min-loss-scale). From torch's first scale of 2**16 it takes 30 steps in a row to get below it."""


class LossScale:
    """Whether fp16 still gets anywhere. One that has `trained` before has taken a step."""

    def __init__(self, *, trained: bool) -> None:
        self._took_a_step = trained

    def after_step(self, optimizer: Any, step: int, *, last: bool) -> None:
        """Look at the `step` that accelerate's `optimizer` took, or passed over; `last`: none follows.

        Raises:
            Failure: gradients overflow however little the loss is scaled, or did so in every step of the run.
        """
        self._took_a_step = self._took_a_step or not optimizer.step_was_skipped
        if not optimizer.step_was_skipped:
            return
        scale = optimizer.scaler.get_scale()
        if scale < LEAST_SCALE or (last and not self._took_a_step):
            raise Failure(
                Reason.DIVERGED,
                f"training diverged: up to step {step} gradients overflow in fp16, though the loss is scaled by only "
                f"{scale:.2g} by now; write training.precision: bf16 where the GPU has it, else fp32; a lower "
                "training.learningRate may help too",
            )
