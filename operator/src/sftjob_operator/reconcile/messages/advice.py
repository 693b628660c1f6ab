"""Advice on how to avoid the failure of a run: the hint for its reason, with this run's own numbers."""

import dataclasses
from typing import Final

from sftjob_contract.names import Stage
from sftjob_contract.reasons import Reason
from sftjob_operator.api import AttemptStatus
from sftjob_operator.plan import alternative, gpu_memory, longest_row
from sftjob_operator.plan.quantities import readable_size
from sftjob_operator.reconcile.attempts.end_reason import CANNOT_EXECUTE, SIGNAL_BASE
from sftjob_operator.reconcile.attempts.failure_reasons import policy_of
from sftjob_operator.reconcile.snapshot import Snapshot
from sftjob_operator.reconcile.spec.plan_status import known_gpu_memory
from sftjob_operator.render import memory_field, run_config

SMALLER: Final = 0.8
"""Fraction of the exhausted memory that suggested settings may be predicted to need: the prediction was too low."""


def advice(snapshot: Snapshot, last: AttemptStatus) -> str:
    """Return whole sentences about what to change after `last`, the attempt that ended the job."""
    trained = _trained(snapshot) if last.stage is Stage.PUBLISH else ""
    return f"{trained}{_changes(snapshot, last)}"


def _changes(snapshot: Snapshot, last: AttemptStatus) -> str:
    if (own := _about_program(snapshot, last)) is not None:
        return own
    hint = policy_of(last).hint
    if last.reason == Reason.GPU_OUT_OF_MEMORY and last.stage is Stage.TRAIN:
        one = "The micro-batch is already one sequence, so it cannot be smaller."
        return f"{one} {_other_settings(snapshot) or hint}"
    if last.reason == Reason.DISK_FULL:
        return _disk(snapshot, hint)
    if last.reason == Reason.HOST_OUT_OF_MEMORY:
        return f"{_host_memory(snapshot, last)}Raise {memory_field(snapshot.job, last.stage)}."
    if last.reason == Reason.DIVERGED:
        return f"{_newest_checkpoint(snapshot)}{hint}"
    return hint


def _about_program(snapshot: Snapshot, last: AttemptStatus) -> str | None:
    """Return advice for a container whose program is the user's own, or missing."""
    if (last.message or "").startswith(CANNOT_EXECUTE):
        return _program(snapshot)
    if snapshot.job.spec.recipe is None and last.exit_code is not None and last.exit_code < SIGNAL_BASE:
        return "spec.command names the program: correct it or its arguments, and create a new SFTJob."
    return None


def _program(snapshot: Snapshot) -> str:
    image, command = snapshot.job.spec.image, snapshot.job.spec.command
    if command:
        named = f"Correct spec.command, whose first word is {command[0]!r}, or spec.image ({image})"
    elif image is not None:
        named = f"Correct spec.image: {image} is not a trainer image for this node's architecture"
    else:
        named = "Correct the trainer image that the chart installs, or set another one in spec.image"
    return f"{named}. A finished SFTJob cannot be restarted: create a new one."


def _other_settings(snapshot: Snapshot) -> str | None:
    """Suggest changes that need clearly less memory than the smallest micro-batch, if that can be predicted."""
    stats, config = snapshot.stats, run_config(snapshot.job)
    training = config.training
    if stats is None or stats.model_shape is None or training.extra:
        return None
    smallest = dataclasses.replace(
        training,
        per_device_batch_size=1,
        gradient_accumulation_steps=training.per_device_batch_size * training.gradient_accumulation_steps,
    )
    config = dataclasses.replace(config, training=smallest)
    row_tokens = longest_row(config)
    needed = gpu_memory(config, stats.model_shape, row_tokens).total
    limit = int(SMALLER * min(needed, known_gpu_memory(snapshot.job) or needed))
    found = alternative(config, stats.model_shape, row_tokens, limit)
    if found is None:
        return None
    return f"This would need about {readable_size(found.total_bytes)} instead: {', '.join(found.changes)}."


def _disk(snapshot: Snapshot, hint: str) -> str:
    """An existing claim has no size in the job's spec, and its directory belongs to the failed job."""
    plan, storage = snapshot.plan, snapshot.job.spec.storage
    known = None if plan is None or plan.disk_bytes is None else readable_size(plan.disk_bytes)
    if storage.existing_claim is not None:
        need = "" if known is None else f"The run is predicted to need {known} there. "
        return (
            f"{need}Free space on claim {storage.existing_claim} or enlarge it, or lower checkpoints.keep, and create "
            "a new SFTJob under another name; with checkpoints.resumeFrom it starts from this job's weights."
        )
    need = "" if known is None else f"The run is predicted to need {known}, and storage.size is {storage.size}. "
    return f"{need}{hint}"


def _host_memory(snapshot: Snapshot, last: AttemptStatus) -> str:
    plan = snapshot.plan
    if last.stage is not Stage.TRAIN or plan is None or plan.host_memory_bytes is None:
        return ""
    limit = snapshot.job.spec.resources.memory
    has = "is not set" if limit is None else f"is {limit}"
    return f"The run is predicted to need {readable_size(plan.host_memory_bytes)}, and spec.resources.memory {has}. "


def _trained(snapshot: Snapshot) -> str:
    newest = snapshot.training.latest_checkpoint
    return "Training is complete. " if newest is None else f"Training is complete; its newest checkpoint is {newest}. "


def _newest_checkpoint(snapshot: Snapshot) -> str:
    newest = snapshot.training.latest_checkpoint
    return f"The newest complete checkpoint is {newest}. " if newest is not None else "There is no checkpoint yet. "
