"""What the container of a stage asks for."""

from dataclasses import dataclass
from typing import Any

from sftjob_contract.names import Stage
from sftjob_operator.api import SFTJob


@dataclass(frozen=True, kw_only=True)
class StageResources:
    """Quantities in Kubernetes' notation; None: not asked for."""

    cpu: str | None
    cpu_limit: str | None
    memory: str | None
    ephemeral_storage: str | None
    gpus: int


def stage_resources(job: SFTJob, stage: Stage) -> StageResources:
    """What a stage gets: Prepare and Publish what Prepare has of its own, else what Train has, and never a GPU."""
    spec = job.spec.resources
    if stage is Stage.TRAIN:
        return StageResources(
            cpu=spec.cpu,
            cpu_limit=spec.cpu_limit,
            memory=spec.memory,
            ephemeral_storage=spec.ephemeral_storage,
            gpus=spec.gpus,
        )
    own = spec.prepare
    return StageResources(
        cpu=own.cpu or spec.cpu,
        cpu_limit=own.cpu_limit or spec.cpu_limit,
        memory=spec.memory if loads_model(job, stage) else own.memory or spec.memory,
        ephemeral_storage=own.ephemeral_storage or spec.ephemeral_storage,
        gpus=0,
    )


def loads_model(job: SFTJob, stage: Stage) -> bool:
    """Whether a stage has the memory of Train: a merge loads the whole model, which Prepare never does."""
    return stage is Stage.TRAIN or (stage is Stage.PUBLISH and job.spec.output.merge_adapter)


def memory_field(job: SFTJob, stage: Stage) -> str:
    """The field of the spec that has the memory of a stage."""
    own = None if loads_model(job, stage) else job.spec.resources.prepare.memory
    return "spec.resources.memory" if own is None else "spec.resources.prepare.memory"


def container_resources(job: SFTJob, stage: Stage) -> dict[str, Any]:
    """Everything is requested as much as it is limited, but CPU, which has a limit of its own or none."""
    wanted = stage_resources(job, stage)
    fixed: dict[str, str] = {}
    if wanted.memory is not None:
        fixed["memory"] = wanted.memory
    if wanted.ephemeral_storage is not None:
        fixed["ephemeral-storage"] = wanted.ephemeral_storage
    if wanted.gpus > 0:
        fixed[job.spec.resources.gpu_resource_name] = str(wanted.gpus)
    requests = dict(fixed) if wanted.cpu is None else {"cpu": wanted.cpu, **fixed}
    limits = dict(fixed) if wanted.cpu_limit is None else {"cpu": wanted.cpu_limit, **fixed}
    return {key: value for key, value in (("requests", requests), ("limits", limits)) if value}
