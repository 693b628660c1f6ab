"""What to change so that a failed run would not fail again: the hint for its reason, with this run's own numbers."""

import dataclasses
from typing import Final

from sftjob_contract.names import Stage
from sftjob_contract.reasons import Reason
from sftjob_operator.api import AttemptStatus
from sftjob_operator.plan import alternative, gpu_memory, longest_row
from sftjob_operator.reconcile.planning import known_gpu_memory
from sftjob_operator.reconcile.policy import policy_of
from sftjob_operator.reconcile.situation import Situation
from sftjob_operator.reconcile.training import with_training
from sftjob_operator.reconcile.verdicts import CANNOT_EXECUTE, SIGNAL_BASE
from sftjob_operator.render import memory_field, run_config

SMALLER: Final = 0.8
"""Share of what ran out that other settings must be predicted to need: the prediction was too low by some of it."""
_GIB: Final = 1 << 30


def advice(at: Situation, last: AttemptStatus) -> str:
    """Whole sentences about what to change after `last`, the attempt that ended the job."""
    trained = _trained(at) if last.stage is Stage.PUBLISH else ""
    return f"{trained}{_changes(at, last)}"


def _changes(at: Situation, last: AttemptStatus) -> str:
    if (own := _about_program(at, last)) is not None:
        return own
    hint = policy_of(last).hint
    if last.reason == Reason.GPU_OUT_OF_MEMORY and last.stage is Stage.TRAIN:
        one = "Sequences go through the model one at a time already, so that no smaller micro-batch helps."
        return f"{one} {_other_settings(at) or hint}"
    if last.reason == Reason.DISK_FULL:
        return _disk(at, hint)
    if last.reason == Reason.HOST_OUT_OF_MEMORY:
        return f"{_host_memory(at, last)}Raise {memory_field(at.job, last.stage)}."
    if last.reason == Reason.DIVERGED:
        return f"{_newest_checkpoint(at)}{hint}"
    return hint


def _about_program(at: Situation, last: AttemptStatus) -> str | None:
    """What to change where the program of the container is the user's, or none at all."""
    if (last.message or "").startswith(CANNOT_EXECUTE):
        return _program(at)
    if at.job.spec.recipe is None and last.exit_code is not None and last.exit_code < SIGNAL_BASE:
        return "The program is that of spec.command: correct it, or what it was given, and create the job anew."
    return None


def _program(at: Situation) -> str:
    image, command = at.job.spec.image, at.job.spec.command
    if command:
        named = f"Correct spec.command, whose first word is {command[0]!r}, or spec.image ({image})"
    elif image is not None:
        named = f"Correct spec.image: {image} is no image of the trainer for this node's architecture"
    else:
        named = "Correct the trainer image that the chart installs, or name another one in spec.image"
    return f"{named}. A finished job never runs again: create it anew."


def _other_settings(at: Situation) -> str | None:
    """What would need clearly less memory than the run at its smallest micro-batch, where that can be predicted."""
    stats, config = at.stats, run_config(at.job)
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
    limit = int(SMALLER * min(needed, known_gpu_memory(at.job) or needed))
    found = alternative(config, stats.model_shape, row_tokens, limit)
    if found is None:
        return None
    return f"This would need about {found.total_bytes / _GIB:.1f} GiB instead: {', '.join(found.changes)}."


def _disk(at: Situation, hint: str) -> str:
    """A claim that was there before has no size of the job's, and its directory belongs to the job that failed."""
    plan, storage = at.plan, at.job.spec.storage
    known = None if plan is None or plan.disk_bytes is None else f"{plan.disk_bytes / _GIB:.1f} GiB"
    if storage.existing_claim is not None:
        need = "" if known is None else f"The run is predicted to need {known} there. "
        return (
            f"{need}Free room on the claim {storage.existing_claim} or enlarge it, or lower checkpoints.keep, and "
            "create the job again under another name; checkpoints.resumeFrom takes the weights of this one."
        )
    need = "" if known is None else f"The run is predicted to need {known}, and storage.size is {storage.size}. "
    return f"{need}{hint}"


def _host_memory(at: Situation, last: AttemptStatus) -> str:
    plan = at.plan
    if last.stage is not Stage.TRAIN or plan is None or plan.host_memory_bytes is None:
        return ""
    limit = at.job.spec.resources.memory
    has = "has no limit of its own" if limit is None else f"is {limit}"
    return f"The run is predicted to need {plan.host_memory_bytes / _GIB:.1f} GiB, and spec.resources.memory {has}. "


def _trained(at: Situation) -> str:
    newest = with_training(at).latest_checkpoint
    return "Training is complete. " if newest is None else f"Training is complete; its newest checkpoint is {newest}. "


def _newest_checkpoint(at: Situation) -> str:
    newest = with_training(at).latest_checkpoint
    return f"The newest complete checkpoint is {newest}. " if newest is not None else "There is no checkpoint yet. "
