"""Where a run's output and its metrics go: part of the run config."""

from dataclasses import dataclass
from enum import StrEnum


class Retain(StrEnum):
    """What stays on the volume after a success."""

    ALL = "All"
    OUTPUT = "Output"
    """Output, results and logs; caches, prepared data and checkpoints are removed."""


class MergeDtype(StrEnum):
    """Dtype of a merged model, under PyTorch's names."""

    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


@dataclass(frozen=True, kw_only=True)
class HubRepository:
    """A model repository on the hub to push to: ORG/NAME."""

    repository: str
    private: bool


@dataclass(frozen=True, kw_only=True)
class Output:
    """What is made of the trained weights: merged into the base, pushed to a hub, uploaded to an s3:// or gs:// URI.

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
    """An MLflow run. No `tracking_uri`: it stays on the volume."""

    experiment: str
    tracking_uri: str | None


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """Where metrics go besides the resource's status and `logs/metrics.jsonl`."""

    tensorboard: bool
    wandb: Wandb | None
    mlflow: Mlflow | None
