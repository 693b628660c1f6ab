"""Resource requests and limits of a stage's container."""

from dataclasses import dataclass
from typing import Any

from sftjob_contract.names import Stage
from sftjob_operator.api import SFTJob


@dataclass(frozen=True, kw_only=True)
class StageResources:
    """Quantities in Kubernetes' notation; None: not requested."""

    cpu: str | None
    cpu_limit: str | None
    memory: str | None
    ephemeral_storage: str | None
    gpus: int


def stage_resources(job: SFTJob, stage: Stage) -> StageResources:
    """Return a stage's resources: Prepare and Publish use their own section, else Train's values, and never a GPU."""
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
    """Whether a stage uses Train's memory: a merge loads the whole model, which Prepare never does."""
    return stage is Stage.TRAIN or (stage is Stage.PUBLISH and job.spec.output.merge_adapter)


def memory_field(job: SFTJob, stage: Stage) -> str:
    """Return the field of the spec that sets the memory of a stage."""
    own = None if loads_model(job, stage) else job.spec.resources.prepare.memory
    return "spec.resources.memory" if own is None else "spec.resources.prepare.memory"


def container_resources(job: SFTJob, stage: Stage) -> dict[str, Any]:
    """Requests equal limits, except for CPU, which has a limit of its own or none."""
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
