"""Whether the learning rate can follow its schedule within the steps of a run."""

from collections.abc import Mapping

from sftjob_contract.config import Training
from sftjob_contract.optimization import Scheduler
from sftjob_contract.reasons import Reason
from sftjob_trainer.arguments import warmup_steps
from sftjob_trainer.failure import Failure


def check_schedule(steps: int, training: Training) -> None:
    """See that the learning rate reaches its value, and falls again where it is meant to, within `steps`.

    Raises:
        Failure: the warmup is as long as the run, or the parts of the schedule do not fit into it.
    """
    warmup = training.warmup_steps
    if warmup and warmup >= steps:
        raise _refused(
            f"training.warmupSteps {warmup} is not below the {steps} steps of the run, so the learning rate would "
            "never reach its value; lower it, or write training.warmupRatio"
        )
    if training.scheduler is Scheduler.WARMUP_STABLE_DECAY:
        _check_parts(steps, training)


def _check_parts(steps: int, training: Training) -> None:
    """See that warmup, stable and decay steps are those of the run: what is beyond it never happens."""
    options = training.extra.get("lr_scheduler_kwargs")
    given = options if isinstance(options, Mapping) else {}
    warmup, decay, stable = warmup_steps(training, steps), given.get("num_decay_steps"), given.get("num_stable_steps")
    where = "training.extra.lr_scheduler_kwargs"
    for name, value in (("num_decay_steps", decay), ("num_stable_steps", stable)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
            raise _refused(f"{where}.{name} must be a whole number from 0, not {value!r}")
    parts = warmup + (decay or 0) + (stable or 0)
    if parts > steps or (stable is not None and parts != steps):
        raise _refused(
            f"{where}: {warmup} steps of warmup"
            + (f", {stable} stable" if stable is not None else "")
            + f" and {decay} of decay are not the {steps} steps of the run; lower num_decay_steps"
            + (", or remove num_stable_steps" if stable is not None else "")
        )


def _refused(sentence: str) -> Failure:
    return Failure(Reason.CONFIG_INVALID, sentence)
