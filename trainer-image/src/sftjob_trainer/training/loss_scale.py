"""fp16 loss scaling: a step whose gradients overflow is skipped and the scale halved, but not forever."""

from typing import Any, Final

from sftjob_contract.reasons import Reason
from sftjob_trainer.process.errors import StageError

MIN_SCALE: Final = 1e-4
"""The minimum of fairseq (--min-loss-scale). From torch's initial scale of 2**16, 30 steps in a row go below it."""


class LossScale:
    """Tracks whether fp16 training still progresses. `trained`: a step was taken before."""

    def __init__(self, *, trained: bool) -> None:
        self._has_trained = trained

    def after_step(self, optimizer: Any, step: int, *, last: bool) -> None:
        """Check the `step` that accelerate's `optimizer` took or skipped; `last`: it is the final step.

        Raises:
            StageError: gradients overflow even at the smallest scale, or did so in every step of the run.
        """
        self._has_trained = self._has_trained or not optimizer.step_was_skipped
        if not optimizer.step_was_skipped:
            return
        scale = optimizer.scaler.get_scale()
        if scale < MIN_SCALE or (last and not self._has_trained):
            raise StageError(
                Reason.DIVERGED,
                f"training diverged: up to step {step} gradients overflow in fp16, though the loss is scaled by only "
                f"{scale:.2g} by now; write training.precision: bf16 where the GPU has it, else fp32; a lower "
                "training.learningRate may help too",
            )
