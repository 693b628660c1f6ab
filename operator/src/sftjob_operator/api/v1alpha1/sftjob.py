"""The SFTJob resource: one supervised fine-tuning run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar

from pydantic import ConfigDict, Field

from sftjob_contract.run.config import DataFormat
from sftjob_contract.secrets import LEAKY_VALUE
from sftjob_contract.variables import (
    COMPILE_VARIABLES,
    DEVICE_VARIABLES,
    INTERPRETER_VARIABLES,
    SHARDING_PREFIXES,
    WORLD_PREFIXES,
    WORLD_VARIABLES,
)
from sftjob_operator.api.types import EMPTY_IS_ABSENT, Model, Name, Time, rule, rules
from sftjob_operator.api.v1alpha1.cluster import ResourcesSpec, StorageSpec
from sftjob_operator.api.v1alpha1.dataset import DatasetSpec
from sftjob_operator.api.v1alpha1.method import MethodSpec
from sftjob_operator.api.v1alpha1.model import ModelSpec
from sftjob_operator.api.v1alpha1.preprocessing import FUNCTION_IN_CEL
from sftjob_operator.api.v1alpha1.results import CheckpointsSpec, EvaluationSpec, OutputSpec, TrackingSpec
from sftjob_operator.api.v1alpha1.scheduling import (
    EnvVar,
    FailurePolicySpec,
    ImagePullPolicy,
    LocalObjectReference,
    PodMetadataSpec,
    SchedulingSpec,
)
from sftjob_operator.api.v1alpha1.sources import on_hub, remote
from sftjob_operator.api.v1alpha1.status import SFTJobStatus
from sftjob_operator.api.v1alpha1.training import TrainingSpec

M = TypeVar("M", bound=Model)

NAME_LIMIT: Final = 48
"""Maximum length of a job's name, so that the names of its Pods stay DNS labels of at most 63 characters."""


class ObjectMeta(Model):
    """What the operator reads of an object's metadata."""

    name: Name
    namespace: Name
    uid: Annotated[str, Field(max_length=128)]
    labels: dict[str, str] | None = None
    generation: int = 1
    resource_version: str = ""
    creation_timestamp: Time | None = None
    deletion_timestamp: Time | None = None


def _unchangeable(*fields: str) -> tuple[dict[str, Any], ...]:
    """Rules for optional fields that may not be set, changed or removed later."""
    return tuple(
        rule(
            f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})",
            f"{field} {_CAN_NOT_CHANGE}",
        )
        for field in fields
    )


def _fixed(default: M) -> Any:
    """A field that is immutable; it is always present, since it has a default."""
    return Field(default=default, json_schema_extra=_FIXED)


_CAN_NOT_CHANGE: Final = "is immutable; create a new SFTJob under another name instead"
_FIXED: Final = rules(rule("self == oldSelf", _CAN_NOT_CHANGE))
_HELD_OUT: Final = (
    "(!has(self.dataset.evaluation.fraction) || self.dataset.evaluation.fraction > 0.0)"  # CEL: rows are held out
)
_RESUMES_FROM_REMOTE: Final = (
    "(has(self.checkpoints.resumeFrom) && has(self.checkpoints.resumeFrom.source) "
    f"&& {remote('self.checkpoints.resumeFrom.source')})"
)
_COMPLETIONS: Final = (DataFormat.AUTO, DataFormat.PROMPT_COMPLETION, DataFormat.ALPACA)
_CHATS: Final = (DataFormat.AUTO, DataFormat.MESSAGES, DataFormat.SHAREGPT)
_DEVICES: Final = "(self.resources.gpus > 1 ? self.resources.gpus : 1) * self.resources.nodes"


def _of_model_or_teacher(condition: Callable[[str], str]) -> str:
    """CEL: `condition` holds for the source of the model or of its teacher."""
    teacher = "self.method.distillation"
    return f"{condition('self.model.source')} || (has({teacher}) && {condition(f'{teacher}.teacher.source')})"


_RECIPE: Final = ("model", "dataset", "method")
_HAS_RECIPE: Final = " && ".join(f"has(self.{field})" for field in _RECIPE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Fields that the operator's trainer requires."""

    model: ModelSpec
    dataset: DatasetSpec
    method: MethodSpec


def _needed(field: str) -> dict[str, Any]:
    """CEL: a part of the recipe is set, or `command` is."""
    sentence = "write it, or write command for an image of your own that trains in its own way"
    required = {"reason": "FieldValueRequired", "fieldPath": f".{field}"}
    return {**rule(f"has(self.{field}) || has(self.command)", sentence), **required}


def _of_recipe(condition: str, message: str) -> dict[str, Any]:
    """A rule about the recipe. It passes if a part of the recipe is missing, which another rule reports."""
    return rule(f"!({_HAS_RECIPE}) || ({condition})", message)


def _has_function(section: str) -> str:
    """CEL: a Python function preprocesses the rows of `section`, the dataset or one of its sources."""
    return f"has({section}.preprocessing) && has({section}.preprocessing.{FUNCTION_IN_CEL})"


def _every_format(formats: tuple[DataFormat, ...]) -> str:
    """CEL: the rows of every source have one of `formats`."""
    allowed = [format_.value for format_ in formats]
    return (
        "(has(self.dataset.sources) "
        f"? self.dataset.sources.all(part, (has(part.format) ? part.format : self.dataset.format) in {allowed}) "
        f": self.dataset.format in {allowed})"
    )


def _not_in_env(names: tuple[str, ...], message: str, prefixes: tuple[str, ...] = ()) -> dict[str, Any]:
    """CEL: no variable has one of `names` or begins with one of `prefixes`, which belong to the operator's trainer.

    A custom image may have them.

    Jobs created before this rule may have some: they can still be suspended, since env cannot change.
    """
    exact = [f"entry.name in {list(names)}"] if names else []
    taken = " || ".join([*exact, *(f"entry.name.startsWith('{each}')" for each in prefixes)])
    allowed = f"!has(self.env) || has(self.command) || self.env.all(entry, !({taken}))"
    return {**rule(f"oldSelf.hasValue() || {allowed}", message), "fieldPath": ".env", "optionalOldSelf": True}


_ENV_RULES: Final = (
    _not_in_env(
        WORLD_VARIABLES,
        "WORLD_SIZE, RANK, LOCAL_RANK, NODE_RANK, MASTER_ADDR, MASTER_PORT, TORCHELASTIC_*, PET_*, ACCELERATE_* "
        "and the like are set for each process by the trainer, which would wait for processes that do not exist: "
        "remove them, and write resources.gpus and resources.nodes",
        WORLD_PREFIXES,
    ),
    _not_in_env(
        INTERPRETER_VARIABLES,
        "PATH, LD_PRELOAD, LD_LIBRARY_PATH, PYTHONPATH, PYTHONHOME and the like decide which Python and which "
        "libraries the trainer runs with: remove them, or write an image of your own that has what you need",
    ),
    _not_in_env(
        ("HF_TOKEN", "WANDB_API_KEY", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"),
        "HF_TOKEN, WANDB_API_KEY, HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE are for the operator to set: write "
        "model.tokenSecretRef, dataset.tokenSecretRef, output.hub.tokenSecretRef or tracking.wandb.apiKeySecretRef",
    ),
    _not_in_env(
        (),
        "FSDP_*, MEGATRON_LM_* and PARALLELISM_CONFIG_* have no effect, since each GPU holds the whole model: remove "
        "them, and write method.quantization, training.gradientCheckpointing or GPUs with more memory",
        SHARDING_PREFIXES,
    ),
    _not_in_env(
        DEVICE_VARIABLES,
        "CUDA_VISIBLE_DEVICES, NVIDIA_VISIBLE_DEVICES and the like hide the GPUs that the job requests: remove them, "
        "and write resources.gpus",
    ),
    _not_in_env(
        COMPILE_VARIABLES,
        "TORCHDYNAMO_DISABLE and TORCH_COMPILE_DISABLE silently disable training.compile: remove them, and "
        "write training.compile: false",
    ),
)


ImageReference = Annotated[
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
CommandWord = Annotated[
    str,
    Field(
        max_length=4096,
        json_schema_extra=rules(
            rule(
                f"!self.matches(r'{LEAKY_VALUE}')",
                "looks like a secret, and everyone who may read the job can read it: put it into a Secret and write "
                "env with valueFrom.secretKeyRef",
            )
        ),
    ),
]
Command = Annotated[tuple[CommandWord, ...], Field(min_length=1, max_length=64)]


class SFTJobSpec(Model):
    """What to train. After creation, only suspend, ttlSecondsAfterFinished and deadlineSeconds can be changed."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            *_unchangeable("image", "imagePullPolicy", "imagePullSecrets", "env", "podMetadata"),
            *_ENV_RULES,
            *(_needed(field) for field in _RECIPE),
            rule(
                f"!has(self.command) || !({' || '.join(f'has(self.{field})' for field in _RECIPE)})",
                "command is for an image of your own, which trains in its own way: remove model, dataset and method, "
                "or remove command",
            ),
            rule(
                "!has(self.command) || has(self.image)",
                "command needs image: write the image that the command is in",
            ),
            rule(
                "!has(self.command) || self.storage.existingContent == 'Refuse'",
                "storage.existingContent: MoveAside is for the operator's trainer: remove it, and let command decide "
                "what it does with files that it finds",
            ),
            _of_recipe(
                "!(has(self.evaluation.everySteps) || has(self.evaluation.perEpoch)) || " + _HELD_OUT,
                "evaluation.everySteps and evaluation.perEpoch need held-out rows: set dataset.evaluation.fraction "
                "above 0, or remove them",
            ),
            _of_recipe(
                "!(self.evaluation.savePredictions "
                "|| (has(self.evaluation.metrics) && self.evaluation.metrics.size() > 0)) || " + _HELD_OUT,
                "evaluation.metrics and evaluation.savePredictions need held-out rows: set "
                "dataset.evaluation.fraction above 0, or remove them",
            ),
            _of_recipe(
                "!has(self.training.earlyStopping) || " + _HELD_OUT,
                "training.earlyStopping needs held-out rows: set dataset.evaluation.fraction above 0, or remove it",
            ),
            _of_recipe(
                f"self.model.trustRemoteCode || !({_has_function('self.dataset')}) && !(has(self.dataset.sources) "
                f"&& self.dataset.sources.exists(part, {_has_function('part')}))",
                "dataset.preprocessing.function runs Python code: write model.trustRemoteCode: true once you have read "
                "it, or preprocessing.template instead",
            ),
            _of_recipe(
                f"!has(self.model.tokenSecretRef) || {_of_model_or_teacher(on_hub)}",
                "model.tokenSecretRef is for a model or teacher on the hub only: remove it, or take the model from the "
                "hub",
            ),
            _of_recipe(
                f"!has(self.model.secretRef) || {_of_model_or_teacher(remote)} || {_RESUMES_FROM_REMOTE}",
                "model.secretRef is for an s3://, gs:// or https:// source of the model, its teacher or "
                "checkpoints.resumeFrom only: remove it, or write model.tokenSecretRef for the hub",
            ),
            _of_recipe(
                "!has(self.model.tokenSecretRef) || !has(self.dataset.tokenSecretRef) "
                "|| (self.model.tokenSecretRef.name == self.dataset.tokenSecretRef.name "
                "&& self.model.tokenSecretRef.key == self.dataset.tokenSecretRef.key)",
                "model.tokenSecretRef and dataset.tokenSecretRef must name the same Secret and key: "
                "one hub token serves both",
            ),
            rule(
                f"!has(self.training.globalBatchSize) || self.training.globalBatchSize "
                f"% (self.training.perDeviceBatchSize * {_DEVICES}) == 0",
                "training.globalBatchSize must be a multiple of training.perDeviceBatchSize times resources.gpus times "
                "resources.nodes: change it, or lower perDeviceBatchSize",
            ),
            _of_recipe(
                "self.resources.gpus > 0 || !(self.training.precision == 'fp16' || self.training.kernels == 'liger' "
                "|| self.model.attention in ['flash_attention_2', 'flash_attention_3', 'flash_attention_4'])",
                "training.precision: fp16, training.kernels: liger and flash attention in model.attention need GPUs: "
                "write auto instead, or raise resources.gpus",
            ),
            rule(
                "self.resources.nodes == 1 || has(self.storage.existingClaim) "
                "|| self.storage.accessModes.exists(mode, mode == 'ReadWriteMany')",
                "resources.nodes above 1 needs a volume that several nodes can mount: set storage.accessModes to "
                "[ReadWriteMany], or name such a claim in storage.existingClaim",
            ),
            rule(
                "!has(self.scheduling.topologyKey) || self.scheduling.topologyKey == '' || self.resources.nodes > 1",
                "scheduling.topologyKey is for several nodes: remove it, or raise resources.nodes",
            ),
            _of_recipe(
                "!self.output.mergeAdapter || has(self.method.lora)",
                "output.mergeAdapter needs method.lora: full fine-tuning has no adapter",
            ),
            _of_recipe(
                f"!has(self.training.lossOn) || self.training.lossOn != 'completion' || {_every_format(_COMPLETIONS)}",
                "training.lossOn: completion is for prompt-completion and alpaca rows: write all, or assistant for "
                "messages and sharegpt",
            ),
            _of_recipe(
                f"!has(self.training.lossOn) || self.training.lossOn != 'assistant' || {_every_format(_CHATS)}",
                "training.lossOn: assistant is for messages and sharegpt rows: write all, or completion for "
                "prompt-completion and alpaca",
            ),
        )
    )

    model: Annotated[ModelSpec, Field(json_schema_extra=_FIXED)] | None = None
    """The model to start from. Required unless command is set."""
    dataset: Annotated[DatasetSpec, Field(json_schema_extra=_FIXED)] | None = None
    """The data to train on. Required unless command is set."""
    method: Annotated[MethodSpec, Field(json_schema_extra=_FIXED)] | None = None
    """How weights are adapted: full or lora. Required unless command is set."""
    training: TrainingSpec = _fixed(TrainingSpec())
    """Hyperparameters."""
    evaluation: EvaluationSpec = _fixed(EvaluationSpec())
    """When to evaluate, and what to measure."""
    checkpoints: CheckpointsSpec = _fixed(CheckpointsSpec())
    """When to save, how much to keep, and what to start from."""
    output: OutputSpec = _fixed(OutputSpec())
    """What to do with the trained weights."""
    tracking: TrackingSpec = _fixed(TrackingSpec())
    """Where metrics go besides the status."""
    storage: StorageSpec = _fixed(StorageSpec())
    """The job's volume."""
    resources: ResourcesSpec = _fixed(ResourcesSpec())
    """Resource requests of the Pods."""
    scheduling: SchedulingSpec = _fixed(SchedulingSpec())
    """Where the Pods may run."""
    pod_metadata: PodMetadataSpec | None = None
    """Labels and annotations of the Pods."""
    failure_policy: FailurePolicySpec = _fixed(FailurePolicySpec())
    """What happens when a Pod fails."""
    image: ImageReference | None = None
    """Image of the Pods: one with a trainer, or with the program of command. Absent: the operator's own."""
    command: Annotated[Command, Field(json_schema_extra={"x-kubernetes-list-type": "atomic", **_FIXED})] | None = None
    """Program of image, with its arguments, that trains in place of the operator's trainer, with its own data and
    model. $(NAME) stands for a variable's value. Absent: the operator's trainer."""
    image_pull_policy: Annotated[ImagePullPolicy | None, EMPTY_IS_ABSENT] = None
    """When the image is pulled. Absent: Always for the tag latest, else IfNotPresent."""
    image_pull_secrets: (
        Annotated[
            tuple[LocalObjectReference, ...],
            Field(
                max_length=8,
                json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
            ),
        ]
        | None
    ) = None
    """Secrets with registry credentials."""
    env: (
        Annotated[
            tuple[EnvVar, ...],
            Field(
                max_length=64,
                json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
            ),
        ]
        | None
    ) = None
    """Environment variables of every Pod of the job."""
    suspend: bool = False
    """Save a checkpoint, delete the Pods and free the GPUs; false resumes from it. May be changed at any time."""
    deadline_seconds: Annotated[int, Field(ge=1, le=31_536_000)] | None = None
    """Seconds after creation at which a run that has not ended fails. Absent: none. May be changed."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=31_536_000)] | None = None
    """Seconds after the end at which Pods are deleted, and the volume too unless storage.retain; the SFTJob stays.
    Absent: they stay until the SFTJob is deleted. May be changed."""

    @property
    def recipe(self) -> Recipe | None:
        """What the operator's trainer trains; None if an image of the user's own trains with `command`."""
        if self.model is None or self.dataset is None or self.method is None:
            return None
        return Recipe(model=self.model, dataset=self.dataset, method=self.method)


class SFTJob(Model):
    """One supervised fine-tuning run: prepared, trained, checkpointed, and reported in status."""

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
    """What to train. Most of it is immutable: a new run is a new SFTJob."""
    status: SFTJobStatus = SFTJobStatus()
    """What was observed. Written by the operator."""
