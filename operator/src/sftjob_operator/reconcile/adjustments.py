"""What a recovery changes: after an out-of-memory error, activations are recomputed or micro-batches are smaller."""

from collections.abc import Iterable

from sftjob_contract.batches import micro_batches
from sftjob_contract.config import RunConfig
from sftjob_contract.names import Stage
from sftjob_contract.reasons import Reason
from sftjob_operator.api import AdjustmentStatus, AttemptStatus, ChangeStatus, PlanStatus, SFTJob
from sftjob_operator.render import run_config


def update_adjustments(
    job: SFTJob, plan: PlanStatus | None, attempts: Iterable[AttemptStatus]
) -> tuple[AdjustmentStatus, ...]:
    """Those recorded, and one for each train attempt since that ran out of GPU memory and could do with less."""
    adjustments = job.status.adjustments
    if job.spec.recipe is None:  # the micro-batch of an image of the user's own is not known
        return adjustments
    for entry in sorted(attempts, key=lambda entry: entry.number):
        told = adjustments and entry.number < adjustments[-1].attempt
        ended = entry.stage == Stage.TRAIN and entry.end_time is not None
        if ended and not told and entry.reason == Reason.GPU_OUT_OF_MEMORY:
            less = _recomputing(job, plan, adjustments, entry) or _smaller(job, adjustments, entry)
            adjustments = adjustments if less is None else (*adjustments, less)
    return adjustments


def smaller_batch(size: int) -> int | None:
    """The largest divisor of a micro-batch that is at most half of it, so that the global batch stays; None for 1."""
    return next((half for half in range(size // 2, 0, -1) if size % half == 0), None)


def _goes_one_at_a_time(config: RunConfig) -> bool:
    """Whether no more than one sequence goes through the model at once, whatever the micro-batch.

    Answers are generated in batches of unpacked rows, however those to train on are laid out.
    """
    evaluation = config.evaluation
    generates = evaluation.metrics or evaluation.save_predictions or evaluation.sample_prompts
    return micro_batches(config)[0] == 1 and not generates


def _recomputing(
    job: SFTJob, plan: PlanStatus | None, adjustments: tuple[AdjustmentStatus, ...], failed: AttemptStatus
) -> AdjustmentStatus | None:
    """Gradient checkpointing, where the plan left it out. What the spec says itself stays."""
    planned_without = plan is not None and plan.gradient_checkpointing is False
    asked = job.spec.training.gradient_checkpointing is not None
    if asked or not planned_without or any(adjustment.gradient_checkpointing for adjustment in adjustments):
        return None
    return AdjustmentStatus(
        attempt=failed.number + 1,
        reason=Reason.GPU_OUT_OF_MEMORY,
        gradient_checkpointing=True,
        message=f"After attempt {failed.number} ran out of GPU memory, attempt {failed.number + 1} recomputes "
        "activations instead of storing them (gradientCheckpointing: true): slower, with the same losses.",
        time=failed.end_time,
    )


def _smaller(job: SFTJob, adjustments: tuple[AdjustmentStatus, ...], failed: AttemptStatus) -> AdjustmentStatus | None:
    config = run_config(job)
    if _goes_one_at_a_time(config):
        return None
    batch, accumulation = config.training.per_device_batch_size, config.training.gradient_accumulation_steps
    for adjustment in adjustments:
        if adjustment.per_device_batch_size is not None and adjustment.gradient_accumulation_steps is not None:
            batch, accumulation = adjustment.per_device_batch_size.to, adjustment.gradient_accumulation_steps.to
    if (smaller := smaller_batch(batch)) is None:
        return None
    more = accumulation * batch // smaller
    message = (
        f"After attempt {failed.number} ran out of GPU memory, attempt {failed.number + 1} takes perDeviceBatchSize "
        f"{smaller} instead of {batch} and gradientAccumulationSteps {more} instead of {accumulation}: the global "
        "batch and the order of the data stay."
    )
    return AdjustmentStatus(
        attempt=failed.number + 1,
        reason=Reason.GPU_OUT_OF_MEMORY,
        per_device_batch_size=ChangeStatus(before=batch, to=smaller),
        gradient_accumulation_steps=ChangeStatus(before=accumulation, to=more),
        message=message,
        time=failed.end_time,
    )
