"""The plan in a job's status: what the run needs, what follows from that, and why it cannot fit."""

from collections.abc import Iterable
from dataclasses import replace as changed
from typing import Final

from sftjob_contract.reports.model_shape import ModelShape
from sftjob_contract.reports.stats import PreparedStats
from sftjob_contract.run.config import RunConfig
from sftjob_contract.run.method import INIT_LORA_WEIGHTS, Lora, uses_eva
from sftjob_operator.api import COUNT_LIMIT, MemoryPlanStatus, PlanStatus, SFTJob, replace
from sftjob_operator.plan import (
    Memory,
    alternative,
    checkpoint_bytes,
    disk_bytes,
    gpu_memory,
    host_memory_bytes,
    known_gpu_memory_bytes,
    longest_row,
    trainable_parameters,
    training_disk_bytes,
    typical_row,
)
from sftjob_operator.plan.quantities import quantity, readable_size
from sftjob_operator.reconcile.observe.observed import PodView
from sftjob_operator.render.config import run_config

MARGIN: Final = 1.25
"""Safety margins of a prediction: above the available memory to reject a run, and below it to disable gradient
checkpointing. Rejecting a run that would have fitted is worse than letting one run out of memory, which is worse than
letting one run a little slower."""
_MOST_WARNINGS: Final = 8


def plan_status(job: SFTJob, stats: PreparedStats) -> PlanStatus:
    """Plan what the run consists of and what it will need, as far as the model's shape is known."""
    shape, config = stats.model_shape, run_config(job)
    recomputes = _recomputes(job, config, stats)
    config = _with_checkpointing(config, enabled=recomputes)
    counted = replace(
        counts(stats),
        gradient_checkpointing=recomputes,
        gpu_memory_bytes=known_gpu_memory(job),
        publish_stage=True if stats.publish_stage and _is_published(job) else None,
    )
    if shape is None:
        return counted
    counted = replace(counted, parameters=shape.parameters)
    if not _is_known(config.method.lora):
        return counted
    row_tokens = longest_row(config)
    return replace(
        counted,
        trainable_parameters=_bounded(trained := trainable_parameters(config.method, shape)),
        trainable_percent=_percent(trained, shape.parameters, adapted=config.method.lora is not None),
        memory=_memory_status(gpu_memory(config, shape, row_tokens)),
        host_memory_bytes=_bounded(host_memory_bytes(config, shape, row_tokens)),
        checkpoint_bytes=_bounded(checkpoint_bytes(config, shape)),
        disk_bytes=_bounded(
            disk_bytes(config, shape, stats, caches_on_volume=job.spec.storage.shared_cache_claim is None)
        ),
        misfit=_misfit(job, config, stats, shape) or _disk_misfit(job, config, stats, shape),
    )


def _is_known(lora: Lora | None) -> bool:
    """Whether an adapter's fields determine its size; most of `extra` may change the adapter's parts."""
    return lora is None or not (lora.extra.keys() - {INIT_LORA_WEIGHTS} or uses_eva(lora))


def _is_published(job: SFTJob) -> bool:
    """Whether the output is merged, pushed or uploaded."""
    output = job.spec.output
    return output.merge_adapter or output.hub is not None or output.upload is not None


def _percent(trained: int, parameters: int, *, adapted: bool) -> float:
    """As in PEFT's print_trainable_parameters, all parameters include those of an adapter."""
    return round(100 * trained / max(1, parameters + (trained if adapted else 0)), 4)


def counts(stats: PreparedStats) -> PlanStatus:
    """Plan what the run consists of."""
    return PlanStatus(
        steps=stats.max_steps,
        steps_per_epoch=stats.steps_per_epoch,
        rows=stats.rows,
        train_rows=stats.train_rows,
        evaluation_rows=stats.evaluation_rows,
        sequences=stats.sequences,
        tokens=stats.tokens,
        trained_tokens=stats.trained_tokens,
        truncated_rows=stats.truncated_rows or None,
        skipped_rows=stats.skipped_rows or None,
        rendered_rows=stats.rendered_rows or None,
        passed_over_files=stats.passed_over_files or None,
        warnings=stats.warnings[:_MOST_WARNINGS] or None,
    )


def plan_of(job: SFTJob, stats: PreparedStats | None) -> PlanStatus | None:
    """Return the plan from Prepare's statistics; once its Pod is gone, the one in the status.

    A custom image has no plan, whatever its Pods report.
    """
    if job.spec.recipe is None:
        return None
    return job.status.plan if stats is None else plan_status(job, stats)


def prepared_stats(pods: Iterable[PodView]) -> PreparedStats | None:
    """Return the statistics of the newest Pod that reported some."""
    reported = [pod.outcome.prepared for pod in pods if pod.outcome is not None and pod.outcome.prepared is not None]
    return reported[-1] if reported else None


def misfit(plan: PlanStatus | None) -> str | None:
    """Why a run cannot fit into its GPUs or onto its volume, and what would; None: it fits, or that is not known."""
    return None if plan is None else plan.misfit


def known_gpu_memory(job: SFTJob) -> int | None:
    """Return the memory in bytes of one of the job's GPUs; None without GPUs, or if the spec does not determine it."""
    resources = job.spec.resources
    if not resources.gpus:
        return None
    return known_gpu_memory_bytes(resources.gpu_memory, resources.gpu_resource_name, job.spec.scheduling.gpu_products)


def _recomputes(job: SFTJob, config: RunConfig, stats: PreparedStats) -> bool:
    """Whether gradient checkpointing is on: as in the spec, else unless the run is known to fit without it.

    With options, or a teacher, that the arithmetic does not cover, it is unknown whether the run fits.
    """
    shape, available = stats.model_shape, _known_memory(job)
    lora, training = config.method.lora, config.training
    if training.gradient_checkpointing is not None:
        return training.gradient_checkpointing
    unseen = config.method.distillation is not None or training.extra or (lora is not None and lora.extra)
    if shape is None or available is None or unseen:
        return True
    storing = _with_checkpointing(config, enabled=False)
    needed = gpu_memory(storing, shape, longest_row(config)).total
    if not config.gpus:
        needed = host_memory_bytes(storing, shape, longest_row(config))
    return needed * MARGIN > available


def _with_checkpointing(config: RunConfig, *, enabled: bool) -> RunConfig:
    return changed(config, training=changed(config.training, gradient_checkpointing=enabled))


def _known_memory(job: SFTJob) -> int | None:
    """Return the memory in bytes of the device that a process trains on: a GPU, or without GPUs its container."""
    resources = job.spec.resources
    if resources.gpus:
        return known_gpu_memory(job)
    return None if resources.memory is None else quantity(resources.memory)


def _memory_status(memory: Memory) -> MemoryPlanStatus:
    return MemoryPlanStatus(
        weights=_bounded(memory.weights),
        adapter=_bounded(memory.adapter),
        gradients=_bounded(memory.gradients),
        optimizer=_bounded(memory.optimizer),
        activations=_bounded(memory.activations),
        logits=_bounded(memory.logits),
        context=_bounded(memory.context),
        total=_bounded(memory.total),
    )


def _bounded(count: int) -> int:
    """Bound a count to what a status can hold: the model shape is an image's claim, which may be absurd."""
    return max(0, min(count, COUNT_LIMIT))


def _misfit(job: SFTJob, config: RunConfig, stats: PreparedStats, shape: ModelShape) -> str | None:
    """Judge by the longest row known to exist; do not judge with options that the arithmetic does not cover."""
    known = known_gpu_memory(job)
    if known is None or config.training.extra:
        return None
    row_tokens = typical_row(config, stats)
    needed = gpu_memory(config, shape, row_tokens)
    if shape.unfrozen is not None:  # how far back a backward pass goes is not known
        needed = changed(needed, activations=0)
    if needed.total <= known * MARGIN:
        return None
    largest = ", ".join(f"{readable_size(size)} for {name}" for name, size in _largest(needed))
    return (
        f"The run cannot fit: training needs about {readable_size(needed.total)} of GPU memory ({largest}), and a GPU "
        f"has {readable_size(known)} ({_source(job)}). {_advice(config, shape, row_tokens, known)}"
    )


def _disk_misfit(job: SFTJob, config: RunConfig, stats: PreparedStats, shape: ModelShape) -> str | None:
    """Judge by the space that Prepare left on the volume, which already contains its downloads."""
    free, needed = stats.free_bytes, training_disk_bytes(config, shape, stats)
    if free is None or needed <= free * MARGIN:
        return None
    storage, each = job.spec.storage, checkpoint_bytes(config, shape)
    claim = storage.existing_claim
    if claim is None:
        where, more = f"the volume (storage.size: {storage.size})", "Create the job again with a larger storage.size"
    else:
        where, more = f"the claim {claim}", f"Free {readable_size(needed - free)} on the claim {claim}, or enlarge it"
    return (
        f"The run cannot fit on its volume: checkpoints of about {readable_size(each)} each and the output need "
        f"{readable_size(needed)}, and {where} has {readable_size(free)} free after Prepare. {more}, or lower "
        f"checkpoints.keep ({config.checkpoints.keep}); up to two more checkpoints than that exist at a time."
    )


def _advice(config: RunConfig, shape: ModelShape, row_tokens: int, known: int) -> str:
    found = alternative(config, shape, row_tokens, known)
    if found is None:
        least = "gradient checkpointing, a smaller micro-batch, an 8-bit optimizer, LoRA and 4-bit weights"
        return f"Not even {least} make it fit: request GPUs with more memory, or use a smaller model."
    return f"These changes make it fit, with about {readable_size(found.total_bytes)}: {', '.join(found.changes)}."


def _source(job: SFTJob) -> str:
    """Return the field that determines the GPU's memory."""
    resources = job.spec.resources
    if resources.gpu_memory is not None:
        return f"resources.gpuMemory: {resources.gpu_memory}"
    if known_gpu_memory_bytes(None, resources.gpu_resource_name, ()) is not None:
        return f"resources.gpuResourceName: {resources.gpu_resource_name}"
    return f"scheduling.gpuProducts: {', '.join(job.spec.scheduling.gpu_products)}"


def _largest(memory: Memory) -> list[tuple[str, int]]:
    """Return the three largest parts, the largest first."""
    parts = sorted(vars(memory).items(), key=lambda part: part[1], reverse=True)
    return parts[:3]
