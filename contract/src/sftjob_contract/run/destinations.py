"""Destinations of a run's output and metrics: part of the run config."""

from dataclasses import dataclass
from enum import StrEnum


class Retain(StrEnum):
    """What is kept on the volume after a success."""

    ALL = "All"
    OUTPUT = "Output"
    """Output, results and logs; caches, prepared data and checkpoints are deleted."""


class MergeDtype(StrEnum):
    """Dtype of a merged model, under PyTorch's names."""

    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


@dataclass(frozen=True, kw_only=True)
class HubRepository:
    """A model repository on the hub: ORG/NAME."""

    repository: str
    private: bool


@dataclass(frozen=True, kw_only=True)
class Output:
    """What happens to the trained weights: merge into the base, push to a hub, upload to an s3:// or gs:// URI.

    `merge_dtype` None: that of the base.
    """

    merge_adapter: bool
    hub: HubRepository | None
    upload_uri: str | None
    retain: Retain
    merge_dtype: MergeDtype | None = None


@dataclass(frozen=True, kw_only=True)
class Wandb:
    """A Weights & Biases run; `offline` keeps it on the volume."""

    project: str
    entity: str | None
    name: str
    base_url: str | None
    offline: bool


@dataclass(frozen=True, kw_only=True)
class Mlflow:
    """An MLflow run. Without `tracking_uri` it stays on the volume."""

    experiment: str
    tracking_uri: str | None


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """Destinations of metrics in addition to the resource's status and `logs/metrics.jsonl`."""

    tensorboard: bool
    wandb: Wandb | None
    mlflow: Mlflow | None
