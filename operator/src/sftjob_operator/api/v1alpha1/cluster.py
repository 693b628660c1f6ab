"""Cluster resources of a run: volume, CPU, memory and GPUs."""

from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field

from sftjob_contract.run.batches import device_count
from sftjob_contract.run.config import ExistingContent
from sftjob_operator.api.types import Model, ObjectName, ObjectNameOrEmpty, Quantity, rule, rules


class AccessMode(StrEnum):
    """How a volume can be mounted."""

    READ_WRITE_ONCE = "ReadWriteOnce"
    READ_WRITE_MANY = "ReadWriteMany"
    READ_WRITE_ONCE_POD = "ReadWriteOncePod"


class StorageSpec(Model):
    """The job's volume: caches, prepared data, checkpoints, logs and output. It is deleted with the job."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.existingClaim) || !has(self.storageClassName)",
                "storageClassName is for a claim that is made for the job: remove it, or remove existingClaim",
            ),
            rule(
                "!has(self.existingClaim) || !self.retain",
                "retain is for a claim that is made for the job, an existingClaim is never deleted: remove one of them",
            ),
        )
    )

    size: Quantity = "50Gi"
    """Size of the PersistentVolumeClaim. Not used with existingClaim."""
    storage_class_name: ObjectNameOrEmpty | None = None
    """StorageClass. Absent: the cluster's default. Empty: a volume that has none."""
    access_modes: Annotated[
        tuple[AccessMode, ...],
        Field(
            min_length=1,
            max_length=3,
            json_schema_extra={
                "x-kubernetes-list-type": "set",
                **rules(
                    rule(
                        "!('ReadWriteOncePod' in self) || self.size() == 1",
                        "ReadWriteOncePod must be the only access mode: remove the others",
                    )
                ),
            },
        ),
    ] = (AccessMode.READ_WRITE_ONCE,)
    """Access modes of the claim. Not used with existingClaim."""
    existing_claim: ObjectName | None = None
    """An existing PersistentVolumeClaim. The job uses a directory with its own name there, and does not delete it."""
    existing_content: ExistingContent = ExistingContent.REFUSE
    """What to do with files of another run in the job's directory. Refuse: the job fails before it trains. MoveAside:
    they are renamed and kept, and the job starts at step 0. A job never resumes from the checkpoints of another one."""
    retain: bool = False
    """Keep the claim when the job is deleted or its time to live has passed."""
    shared_cache_claim: ObjectName | None = None
    """A PersistentVolumeClaim for downloaded models and datasets that several jobs share. Absent: each job downloads
    to its own volume."""


class PrepareResourcesSpec(Model):
    """Requests of the Prepare and Publish Pods, where they differ."""

    cpu: Quantity | None = None
    """CPU request. Absent: resources.cpu."""
    cpu_limit: Quantity | None = None
    """CPU limit. Absent: resources.cpuLimit."""
    memory: Quantity | None = None
    """Memory request and limit. Absent: resources.memory, which Publish has too where it merges an adapter."""
    ephemeral_storage: Quantity | None = None
    """Scratch space below /tmp. Absent: resources.ephemeralStorage."""


class ResourcesSpec(Model):
    """Resource requests of the job's Pods."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("self.nodes == 1 || self.gpus >= 1", "nodes above 1 needs gpus: write in gpus how many each node has"),
            rule(
                "self.gpus <= 1 || !self.gpuResourceName.contains('/mig-')",
                "a process sees one MIG slice only: write gpus: 1, or whole GPUs in gpuResourceName",
            ),
        )
    )

    gpus: Annotated[int, Field(ge=0, le=16)] = 1
    """GPUs for training on each node, or 0 to train on the CPU. Pods of Prepare and Publish request none."""
    gpu_resource_name: Annotated[
        str,
        Field(
            max_length=253,
            json_schema_extra=rules(
                rule(
                    "self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$')",
                    "must be an extended resource such as nvidia.com/gpu, nvidia.com/mig-1g.10gb or amd.com/gpu",
                )
            ),
        ),
    ] = "nvidia.com/gpu"
    """Resource name of one GPU, as the node's device plugin reports it: nvidia.com/gpu, nvidia.com/mig-1g.10gb,
    amd.com/gpu."""
    gpu_memory: Quantity | None = None
    """Memory of one GPU, such as 80Gi, for the check whether the run can fit. Absent: derived from
    scheduling.gpuProducts or a MIG gpuResourceName."""
    nodes: Annotated[int, Field(ge=1, le=64)] = 1
    """Number of nodes, with one Train Pod on each."""
    cpu: Quantity | None = None
    """CPU request, such as 4 or 500m; half a CPU is 500m or "0.5", in quotes. PyTorch gets as many threads, rounded up.
    Absent: none, and a thread for each core of the node."""
    cpu_limit: Quantity | None = None
    """CPU limit, which a quota on limits.cpu requires. Training is slower below it. Absent: none."""
    memory: Quantity | None = None
    """Memory request and limit, such as 32Gi. Absent: none."""
    shared_memory: Quantity = "8Gi"
    """Size limit of /dev/shm, which counts as memory."""
    ephemeral_storage: Quantity | None = None
    """Scratch space below /tmp, as request and limit. Absent: none."""
    prepare: PrepareResourcesSpec = PrepareResourcesSpec()
    """Requests of the Prepare and Publish Pods, where they differ."""

    @property
    def devices(self) -> int:
        """Number of training processes: one for each GPU of each node, or one on the CPU."""
        return device_count(self.gpus, self.nodes)
