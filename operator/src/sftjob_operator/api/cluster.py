"""What a run asks of the cluster: volume, resources, placement, and what happens when a Pod dies."""

from enum import StrEnum
from typing import Annotated, Final

from pydantic import ConfigDict, Field

from sftjob_operator.api.types import LabelValue, Model, ObjectName, Quantity, rule, rules

_LABEL_KEY: Final = rule(
    "self.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$')",
    "must be the key of a label or taint, such as nvidia.com/gpu",
)


class AccessMode(StrEnum):
    """How a volume can be mounted."""

    READ_WRITE_ONCE = "ReadWriteOnce"
    READ_WRITE_MANY = "ReadWriteMany"
    READ_WRITE_ONCE_POD = "ReadWriteOncePod"


class StorageSpec(Model):
    """The job's volume: caches, prepared data, checkpoints, logs and output. It is deleted with the job."""

    size: Quantity = "50Gi"
    """Size of the PersistentVolumeClaim."""
    storage_class_name: ObjectName | None = None
    """StorageClass. Absent: the cluster's default."""
    access_modes: Annotated[
        tuple[AccessMode, ...],
        Field(min_length=1, max_length=3, json_schema_extra={"x-kubernetes-list-type": "set"}),
    ] = (AccessMode.READ_WRITE_ONCE,)
    """Access modes of the claim."""


class ResourcesSpec(Model):
    """What a Pod of the job asks for."""

    gpus: Annotated[
        int,
        Field(
            ge=0,
            le=16,
            json_schema_extra=rules(rule("self <= 1", "must be 0 or 1: a run can not be spread over several GPUs yet")),
        ),
    ] = 1
    """GPUs for training: one, or 0 to train on the CPU. The Prepare Pod asks for none."""
    gpu_resource_name: Annotated[
        str,
        Field(
            max_length=253,
            json_schema_extra=rules(
                rule(
                    "self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$')",
                    "must be an extended resource such as nvidia.com/gpu or nvidia.com/mig-1g.10gb",
                )
            ),
        ),
    ] = "nvidia.com/gpu"
    """Resource that stands for one GPU, as the node's device plugin names it."""
    cpu: Quantity | None = None
    """CPU request, such as 4 or 500m; half a CPU is 500m or "0.5", in quotes. PyTorch gets as many threads, rounded up.
    Absent: none, and a thread for each core of the node."""
    memory: Quantity | None = None
    """Memory request and limit, such as 32Gi. Absent: none."""


class TaintEffect(StrEnum):
    """What a taint does to Pods that do not tolerate it."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class TolerationOperator(StrEnum):
    """How a toleration compares with a taint."""

    EQUAL = "Equal"
    EXISTS = "Exists"


class Toleration(Model):
    """A taint that the Pods may run beside, in the form of a Pod's own tolerations."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "self.operator != 'Exists' || !has(self.value)",
                "operator Exists takes no value: remove value, or write operator: Equal",
            ),
            rule(
                "self.operator == 'Exists' || has(self.key)",
                "operator Equal needs a key: add key, or write operator: Exists to tolerate every taint",
            ),
            rule(
                "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
                "tolerationSeconds needs effect: NoExecute",
            ),
        )
    )

    key: Annotated[str, Field(max_length=317, json_schema_extra=rules(_LABEL_KEY))] | None = None
    """Key of the taint. Absent: every key."""
    operator: TolerationOperator = TolerationOperator.EQUAL
    """Equal compares the value, Exists takes any."""
    value: LabelValue | None = None
    """Value of the taint."""
    effect: TaintEffect | None = None
    """Effect of the taint. Absent: every effect."""
    toleration_seconds: Annotated[int, Field(ge=0, le=31_536_000)] | None = None
    """How long a Pod stays after a NoExecute taint appears. Absent: for ever."""


class SchedulingSpec(Model):
    """Where the Pods may run. It holds for the Prepare Pod as well, so that the volume is reachable from both."""

    node_selector: dict[str, LabelValue] = Field(
        default_factory=dict,
        max_length=32,
        json_schema_extra=rules(
            rule("self.all(key, key.size() <= 317)", "a label key has at most 253 + 1 + 63 characters: shorten it")
        ),
    )
    """Labels that a node must have."""
    tolerations: Annotated[
        tuple[Toleration, ...], Field(max_length=16, json_schema_extra={"x-kubernetes-list-type": "atomic"})
    ] = ()
    """Taints to tolerate."""
    priority_class_name: ObjectName | None = None
    """PriorityClass of the Pods. Absent: the cluster's default."""


class FailurePolicySpec(Model):
    """What happens when a Pod dies or asks to be run again. Errors in spec or data are never retried."""

    max_retries: Annotated[int, Field(ge=0, le=20)] = 3
    """Attempts after the first one. A stop that was asked for (eviction, drain) and saved a checkpoint is free."""
    backoff_seconds: Annotated[int, Field(ge=0, le=3600)] = 10
    """Wait before the first retry; it doubles each time, up to 600 seconds."""
