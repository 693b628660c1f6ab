"""Adjustments after an out-of-memory error: gradient checkpointing, or smaller micro-batches."""

from collections.abc import Iterable

from sftjob_contract.names import Stage
from sftjob_contract.reasons import Reason
from sftjob_contract.run.batches import micro_batches
from sftjob_contract.run.config import RunConfig
from sftjob_operator.api import AdjustmentStatus, AttemptStatus, ChangeStatus, PlanStatus, SFTJob
from sftjob_operator.render import run_config


def update_adjustments(
    job: SFTJob, plan: PlanStatus | None, attempts: Iterable[AttemptStatus]
) -> tuple[AdjustmentStatus, ...]:
    """Return the recorded adjustments, plus one per later train attempt that ran out of GPU memory and can use less."""
    adjustments = job.status.adjustments
    if job.spec.recipe is None:  # a custom image's micro-batch is not known
        return adjustments
    for entry in sorted(attempts, key=lambda entry: entry.number):
        is_adjusted = adjustments and entry.number < adjustments[-1].attempt
        ended = entry.stage == Stage.TRAIN and entry.end_time is not None
        if ended and not is_adjusted and entry.reason == Reason.GPU_OUT_OF_MEMORY:
            less = _recomputing(job, plan, adjustments, entry) or _smaller(job, adjustments, entry)
            adjustments = adjustments if less is None else (*adjustments, less)
    return adjustments


def smaller_batch(size: int) -> int | None:
    """Return the largest divisor of a micro-batch that is at most half of it, so the global batch stays; None for 1."""
    return next((half for half in range(size // 2, 0, -1) if size % half == 0), None)


def _runs_one_sequence(config: RunConfig) -> bool:
    """Whether at most one sequence passes through the model at once, whatever the micro-batch.

    Answers are generated in batches of unpacked rows, whatever the layout of the training rows.
    """
    evaluation = config.evaluation
    generates = evaluation.metrics or evaluation.save_predictions or evaluation.sample_prompts
    return micro_batches(config)[0] == 1 and not generates


def _recomputing(
    job: SFTJob, plan: PlanStatus | None, adjustments: tuple[AdjustmentStatus, ...], failed: AttemptStatus
) -> AdjustmentStatus | None:
    """Enable gradient checkpointing if the plan left it off. An explicit value in the spec stays."""
    planned_without = plan is not None and plan.gradient_checkpointing is False
    asked = job.spec.training.gradient_checkpointing is not None
    if asked or not planned_without or any(adjustment.gradient_checkpointing for adjustment in adjustments):
        return None
    return AdjustmentStatus(
        attempt=failed.number + 1,
        reason=Reason.GPU_OUT_OF_MEMORY,
        gradient_checkpointing=True,
        message=f"After attempt {failed.number} ran out of GPU memory, attempt {failed.number + 1} recomputes "
        "activations instead of storing them (gradientCheckpointing: true), which is slower and gives the same losses.",
        time=failed.end_time,
    )


def _smaller(job: SFTJob, adjustments: tuple[AdjustmentStatus, ...], failed: AttemptStatus) -> AdjustmentStatus | None:
    config = run_config(job)
    if _runs_one_sequence(config):
        return None
    batch, accumulation = config.training.per_device_batch_size, config.training.gradient_accumulation_steps
    for adjustment in adjustments:
        if adjustment.per_device_batch_size is not None and adjustment.gradient_accumulation_steps is not None:
            batch, accumulation = adjustment.per_device_batch_size.to, adjustment.gradient_accumulation_steps.to
    if (smaller := smaller_batch(batch)) is None:
        return None
    more = accumulation * batch // smaller
    message = (
        f"After attempt {failed.number} ran out of GPU memory, attempt {failed.number + 1} uses perDeviceBatchSize "
        f"{smaller} instead of {batch} and gradientAccumulationSteps {more} instead of {accumulation}: the global "
        "batch and the order of the data do not change."
    )
    return AdjustmentStatus(
        attempt=failed.number + 1,
        reason=Reason.GPU_OUT_OF_MEMORY,
        per_device_batch_size=ChangeStatus(before=batch, to=smaller),
        gradient_accumulation_steps=ChangeStatus(before=accumulation, to=more),
        message=message,
        time=failed.end_time,
    )
