"""The plan of a job for its status: what it needs, what follows from that, and the sentence if it can not fit."""

from collections.abc import Iterable
from dataclasses import replace as changed
from typing import Final

from sftjob_contract.config import RunConfig
from sftjob_contract.method import INIT_LORA_WEIGHTS, Lora, uses_eva
from sftjob_contract.model_shape import ModelShape
from sftjob_contract.stats import PreparedStats
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
from sftjob_operator.plan.gpus import quantity
from sftjob_operator.reconcile.observed import PodView
from sftjob_operator.render.config import run_config

MARGIN: Final = 1.25
"""How far a prediction must be above the memory there is for a run to be refused, and below it for gradient
checkpointing to be left out: to refuse a run that would have fitted is worse than to let one run out of memory, and
that is worse than to let one be a little slower."""
_MOST_WARNINGS: Final = 8
_GIB: Final = 1 << 30


def plan_status(job: SFTJob, stats: PreparedStats) -> PlanStatus:
    """What the run consists of and what it will need, as far as the model's shape is known."""
    counted = replace(
        counts(stats),
        gradient_checkpointing=_recomputes(job, stats),
        gpu_memory_bytes=known_gpu_memory(job),
        publish_stage=True if stats.publish_stage and _is_published(job) else None,
    )
    shape, config = stats.model_shape, _with_checkpointing(run_config(job), enabled=_recomputes(job, stats))
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
    """Whether the size of an adapter follows from its fields; most of `extra` may change what it consists of."""
    return lora is None or not (lora.extra.keys() - {INIT_LORA_WEIGHTS} or uses_eva(lora))


def _is_published(job: SFTJob) -> bool:
    """Whether the output is merged, pushed or uploaded."""
    output = job.spec.output
    return output.merge_adapter or output.hub is not None or output.upload is not None


def _percent(trained: int, parameters: int, *, adapted: bool) -> float:
    """As PEFT's print_trainable_parameters: an adapter's parameters count among all."""
    return round(100 * trained / max(1, parameters + (trained if adapted else 0)), 4)


def counts(stats: PreparedStats) -> PlanStatus:
    """What the run consists of."""
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
    """The plan by what Prepare told; once its Pod is gone, the one in the status.

    For an image of the user's own there is none, whatever its Pods claim to have prepared.
    """
    if job.spec.recipe is None:
        return None
    return job.status.plan if stats is None else plan_status(job, stats)


def prepared_stats(pods: Iterable[PodView]) -> PreparedStats | None:
    """Statistics from the newest Pod that told some."""
    told = [pod.outcome.prepared for pod in pods if pod.outcome is not None and pod.outcome.prepared is not None]
    return told[-1] if told else None


def misfit(plan: PlanStatus | None) -> str | None:
    """Why a run can not fit into its GPUs or onto its volume, and what would; None: it fits, or that is not known."""
    return None if plan is None else plan.misfit


def known_gpu_memory(job: SFTJob) -> int | None:
    """Memory in bytes of one of the job's GPUs; None with no GPU, or where the spec does not tell it."""
    resources = job.spec.resources
    if not resources.gpus:
        return None
    return known_gpu_memory_bytes(resources.gpu_memory, resources.gpu_resource_name, job.spec.scheduling.gpu_products)


def _recomputes(job: SFTJob, stats: PreparedStats) -> bool:
    """Whether gradient checkpointing is on: as the spec says, else unless the run is known to fit without it.

    Nothing is known with options, or a teacher, that the arithmetic does not see.
    """
    config, shape, available = run_config(job), stats.model_shape, _known_memory(job)
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
    """Memory in bytes of what a process trains on: a GPU, or with none its container."""
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
    """A count that a status can hold: the shape that it follows from is what an image claims, and may be absurd."""
    return max(0, min(count, COUNT_LIMIT))


def _misfit(job: SFTJob, config: RunConfig, stats: PreparedStats, shape: ModelShape) -> str | None:
    """Judged by rows as long as there are for certain; not at all with options that the arithmetic can not know."""
    known = known_gpu_memory(job)
    if known is None or config.training.extra:
        return None
    row_tokens = typical_row(config, stats)
    needed = gpu_memory(config, shape, row_tokens)
    if shape.unfrozen is not None:  # how far down a step goes back is not known
        needed = changed(needed, activations=0)
    if needed.total <= known * MARGIN:
        return None
    largest = ", ".join(f"{_gib(size)} for {name}" for name, size in _largest(needed))
    return (
        f"The run can not fit: training takes about {_gib(needed.total)} of a GPU's memory ({largest}), and a GPU has "
        f"{_gib(known)} ({_source(job)}). {_advice(config, shape, row_tokens, known)}"
    )


def _disk_misfit(job: SFTJob, config: RunConfig, stats: PreparedStats, shape: ModelShape) -> str | None:
    """Judged by the room that Prepare left on the volume; what it downloaded is there already."""
    free, needed = stats.free_bytes, training_disk_bytes(config, shape, stats)
    if free is None or needed <= free * MARGIN:
        return None
    storage, each = job.spec.storage, checkpoint_bytes(config, shape)
    claim = storage.existing_claim
    if claim is None:
        where, more = f"the volume (storage.size: {storage.size})", "Create the job again with a larger storage.size"
    else:
        where, more = f"the claim {claim}", f"Free {_gib(needed - free)} on the claim {claim}, or enlarge it"
    return (
        f"The run can not fit onto its volume: checkpoints of about {_gib(each)} each and the output take "
        f"{_gib(needed)}, and {where} has {_gib(free)} free after Prepare. {more}, or lower checkpoints.keep, which is "
        f"{config.checkpoints.keep}: two more than that exist at times."
    )


def _advice(config: RunConfig, shape: ModelShape, row_tokens: int, known: int) -> str:
    found = alternative(config, shape, row_tokens, known)
    if found is None:
        least = "gradient checkpointing, a smaller micro-batch, an 8-bit optimizer, LoRA and 4-bit weights"
        return f"Not even {least} make it fit: ask for GPUs with more memory, or take a smaller model."
    return f"This would fit, with about {_gib(found.total_bytes)}: {', '.join(found.changes)}."


def _source(job: SFTJob) -> str:
    """The field that tells the GPU's memory."""
    resources = job.spec.resources
    if resources.gpu_memory is not None:
        return f"resources.gpuMemory: {resources.gpu_memory}"
    if known_gpu_memory_bytes(None, resources.gpu_resource_name, ()) is not None:
        return f"resources.gpuResourceName: {resources.gpu_resource_name}"
    return f"scheduling.gpuProducts: {', '.join(job.spec.scheduling.gpu_products)}"


def _largest(memory: Memory) -> list[tuple[str, int]]:
    """The three largest parts, the largest first."""
    parts = sorted(vars(memory).items(), key=lambda part: part[1], reverse=True)
    return parts[:3]


def _gib(size: int) -> str:
    """Bytes for people: in GiB, or in MiB below one."""
    return f"{size / _GIB:.1f} GiB" if size >= _GIB else f"{size / (1 << 20):.1f} MiB"
