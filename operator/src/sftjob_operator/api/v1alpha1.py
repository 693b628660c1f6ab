"""The SFTJob resource: one supervised fine-tuning run."""

from typing import Annotated, Final

from pydantic import ConfigDict, Field

from sftjob_operator.api.cluster import (
    FailurePolicySpec,
    ResourcesSpec,
    SchedulingSpec,
    StorageSpec,
)
from sftjob_operator.api.spec import (
    CheckpointsSpec,
    DatasetSpec,
    EvaluationSpec,
    MethodSpec,
    ModelSpec,
    TrainingSpec,
)
from sftjob_operator.api.status import SFTJobStatus
from sftjob_operator.api.types import Model, Name, Time, rule, rules

NAME_LIMIT: Final = 48
"""Longest name of a job, so that the names of its Pods stay DNS labels of at most 63 characters."""


class ObjectMeta(Model):
    """What the operator reads of an object's metadata."""

    name: Name
    namespace: Name
    uid: Annotated[str, Field(max_length=128)]
    generation: int = 1
    resource_version: str = ""
    creation_timestamp: Time | None = None
    deletion_timestamp: Time | None = None


class SFTJobSpec(Model):
    """What to train. It can not be changed after creation."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "self == oldSelf", "spec can not be changed: delete this SFTJob, or create a new one under another name"
            ),
            rule(
                "!has(self.evaluation.everySteps) || !has(self.dataset.evaluation.fraction) "
                "|| self.dataset.evaluation.fraction > 0.0",
                "evaluation.everySteps needs held-out rows: set dataset.evaluation.fraction above 0, "
                "or remove everySteps",
            ),
            rule(
                "!has(self.model.tokenSecretRef) || !has(self.dataset.tokenSecretRef) "
                "|| (self.model.tokenSecretRef.name == self.dataset.tokenSecretRef.name "
                "&& self.model.tokenSecretRef.key == self.dataset.tokenSecretRef.key)",
                "model.tokenSecretRef and dataset.tokenSecretRef must name the same Secret and key: "
                "one hub token serves both",
            ),
        )
    )

    model: ModelSpec
    """The model to start from."""
    dataset: DatasetSpec
    """The data to train on."""
    method: MethodSpec
    """How weights are adapted: full or lora."""
    training: TrainingSpec = TrainingSpec()
    """Hyperparameters."""
    evaluation: EvaluationSpec = EvaluationSpec()
    """When to evaluate."""
    checkpoints: CheckpointsSpec = CheckpointsSpec()
    """When to save, and how much to keep."""
    storage: StorageSpec = StorageSpec()
    """The job's volume."""
    resources: ResourcesSpec = ResourcesSpec()
    """What the Pods ask for."""
    scheduling: SchedulingSpec = SchedulingSpec()
    """Where the Pods may run."""
    failure_policy: FailurePolicySpec = FailurePolicySpec()
    """What happens when a Pod dies."""
    image: (
        Annotated[
            str,
            Field(
                max_length=512,
                json_schema_extra=rules(
                    rule(
                        "self.matches('^[A-Za-z0-9][-A-Za-z0-9._/:@]*$')",
                        "must be an image reference such as registry.example.com/team/trainer:1.0",
                    )
                ),
            ),
        ]
        | None
    ) = None
    """Trainer image. Absent: the operator's own."""


class SFTJob(Model):
    """One supervised fine-tuning run: prepared, trained, checkpointed, and told about in status."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                f"self.metadata.name.size() <= {NAME_LIMIT} "
                "&& self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
                f"metadata.name must have at most {NAME_LIMIT} characters, only lowercase letters, digits and '-', "
                "and begin and end with a letter or digit, since the names of Pods are made from it",
            )
        )
    )

    metadata: ObjectMeta
    """Name, namespace, labels and annotations."""
    spec: SFTJobSpec
    """What to train. It can not be changed after creation: a new run is a new SFTJob."""
    status: SFTJobStatus = SFTJobStatus()
    """What was observed. Written by the operator."""
