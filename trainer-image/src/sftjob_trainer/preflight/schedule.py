"""Check that the learning rate can follow its schedule within the steps of a run."""

from collections.abc import Mapping

from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import Training
from sftjob_contract.run.optimization import Scheduler
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.run.sft_config import warmup_steps


def check_schedule(steps: int, training: Training) -> None:
    """Check that the learning rate reaches its value, and decays where it is meant to, within `steps`.

    Raises:
        StageError: the warmup is as long as the run, or the parts of the schedule do not fit into it.
    """
    warmup = training.warmup_steps
    if warmup and warmup >= steps:
        raise _config_error(
            f"training.warmupSteps {warmup} is not below the {steps} steps of the run, so the learning rate would "
            "never reach its value; lower it, or write training.warmupRatio"
        )
    if training.scheduler is Scheduler.WARMUP_STABLE_DECAY:
        _check_parts(steps, training)


def _check_parts(steps: int, training: Training) -> None:
    """Check that warmup, stable and decay steps add up to those of the run: steps beyond it never happen."""
    options = training.extra.get("lr_scheduler_kwargs")
    given = options if isinstance(options, Mapping) else {}
    warmup, decay, stable = warmup_steps(training, steps), given.get("num_decay_steps"), given.get("num_stable_steps")
    field = "training.extra.lr_scheduler_kwargs"
    for name, value in (("num_decay_steps", decay), ("num_stable_steps", stable)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
            raise _config_error(f"{field}.{name} must be a whole number from 0, not {value!r}")
    parts = warmup + (decay or 0) + (stable or 0)
    if parts > steps or (stable is not None and parts != steps):
        raise _config_error(
            f"{field}: {warmup} steps of warmup"
            + (f", {stable} stable" if stable is not None else "")
            + f" and {decay} of decay are not the {steps} steps of the run; lower num_decay_steps"
            + (", or remove num_stable_steps" if stable is not None else "")
        )


def _config_error(message: str) -> StageError:
    return StageError(Reason.CONFIG_INVALID, message)
