"""Results of a run: evaluations, checkpoints, output, and metrics trackers."""

from typing import Annotated

from pydantic import ConfigDict, Field

from sftjob_contract.run.config import HELD_OUT_PROMPTS, Metric
from sftjob_contract.run.destinations import MergeDtype, Retain
from sftjob_operator.api.types import Model, ObjectName, rule, rules
from sftjob_operator.api.v1alpha1.sources import (
    CheckpointSource,
    HttpUrl,
    Repository,
    SecretKeyRef,
    SecretRef,
    UploadUri,
)

Steps = Annotated[int, Field(ge=1, le=100_000_000)]
PerEpoch = Annotated[int, Field(ge=1, le=1000)]


class EvaluationSpec(Model):
    """When to evaluate, besides before the first and after the last step, and what to measure."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.everySteps) || !has(self.perEpoch)",
                "must have at most one of everySteps and perEpoch: remove one of them (with neither, once per epoch)",
            )
        )
    )

    every_steps: Steps | None = None
    """Steps between two evaluations. TRL: eval_steps."""
    per_epoch: PerEpoch | None = None
    """Evaluations in each epoch. Neither everySteps nor perEpoch: 1. TRL: eval_strategy."""
    metrics: Annotated[
        tuple[Metric, ...], Field(max_length=8, json_schema_extra={"x-kubernetes-list-type": "set"})
    ] = ()
    """What to measure besides the loss. bleu, rouge and exact_match compare generated answers with the held-out
    ones."""
    save_predictions: bool = False
    """Write the generated answers to results/predictions.jsonl."""
    sample_prompts: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=4096)], ...],
        Field(max_length=16, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
    ] = ()
    """Prompts that are answered before and after training, to results/samples.jsonl."""
    held_out_prompts: Annotated[int, Field(ge=0, le=16)] = HELD_OUT_PROMPTS
    """Without samplePrompts: held-out rows whose prompts are answered before and after training, to
    results/samples.jsonl, in at most a minute each time. 0: none."""
    max_new_tokens: Annotated[int, Field(ge=1, le=8192)] = 128
    """Longest generated answer in tokens. transformers: max_new_tokens."""
    max_samples: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """Held-out rows to generate answers for, the first ones."""


class ResumeFromSpec(Model):
    """A checkpoint of another run: exactly one of sftJob and source."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.sftJob) != has(self.source)",
                "must have exactly one of sftJob and source: write sftJob for a checkpoint of another SFTJob",
            ),
            rule(
                "!has(self.step) || has(self.sftJob)",
                "step is for sftJob only: remove it, and name the checkpoint itself in source",
            ),
        )
    )

    sft_job: ObjectName | None = None
    """Another SFTJob of the namespace, which must have ended; its own volume is mounted, read-only."""
    step: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Step of its checkpoint. Absent: the newest complete one."""
    source: CheckpointSource | None = None
    """URI of a checkpoint directory. The Prepare Pod reads an s3:// or gs:// one with the variables of
    model.secretRef."""


class CheckpointsSpec(Model):
    """When to save, how much to keep, and what to start from."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.everySteps) || !has(self.perEpoch)",
                "must have at most one of everySteps and perEpoch: remove one of them (with neither, once per epoch)",
            )
        )
    )

    every_steps: Steps | None = None
    """Steps between two checkpoints. TRL: save_steps."""
    per_epoch: PerEpoch | None = None
    """Checkpoints in each epoch. Neither everySteps nor perEpoch: 1. TRL: save_strategy."""
    keep: Annotated[int, Field(ge=1, le=100)] = 3
    """Complete checkpoints to keep, the newest ones; the best one stays as well. TRL: save_total_limit."""
    on_termination: bool = True
    """Save one when the Pod is asked to stop (preemption, drain, suspend), so that no step is lost."""
    resume_from: ResumeFromSpec | None = None
    """Start from another run's checkpoint instead of the model's weights. TRL: resume_from_checkpoint."""


class HubOutputSpec(Model):
    """A repository on the hub to push the output to."""

    repository: Repository
    """ORG/NAME; it is made if it does not exist. TRL: hub_model_id."""
    private: bool = True
    """Whether a repository that is made is private. TRL: hub_private_repo."""
    token_secret_ref: SecretKeyRef
    """Secret with a hub token that may write there. TRL: hub_token."""


class UploadSpec(Model):
    """An object store to copy the output to."""

    uri: UploadUri
    """s3:// or gs:// URI of a directory."""
    secret_ref: SecretRef | None = None
    """Secret whose keys become environment variables of the Publish Pod: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
    AWS_ENDPOINT_URL and the like. Absent: what the ServiceAccount and the node give."""


class OutputSpec(Model):
    """What to do with the trained weights. They always lie on the job's volume too."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.mergeDtype) || self.mergeAdapter",
                "mergeDtype is for a merged model: add mergeAdapter: true, or remove mergeDtype",
            )
        )
    )

    merge_adapter: bool = False
    """Write a model with the adapter merged in, besides the adapter. AutoTrain: merge_adapter."""
    merge_dtype: MergeDtype | None = None
    """Dtype of the merged model. Absent: that of the base. float32 loses nothing of what was learned, in twice the
    space of 16 bits."""
    hub: HubOutputSpec | None = None
    """Push the output to the hub. TRL: push_to_hub."""
    upload: UploadSpec | None = None
    """Copy the output to an object store."""
    retain: Retain = Retain.ALL
    """What stays on the volume after a success: All, or Output for output, results and logs only."""


class WandbSpec(Model):
    """A run on Weights & Biases."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.baseUrl) || has(self.apiKeySecretRef)",
                "baseUrl needs apiKeySecretRef, since without a key nothing is sent: add it, or remove baseUrl",
            )
        )
    )

    project: Annotated[str, Field(min_length=1, max_length=128)]
    """Project. TRL: project."""
    entity: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """User or team. Absent: that of the API key."""
    name: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Name of the run. Absent: namespace and name of the job. TRL: run_name."""
    base_url: HttpUrl | None = None
    """Server, where it is not the public one."""
    api_key_secret_ref: SecretKeyRef | None = None
    """Secret with an API key. Absent: the run stays on the volume, under logs/wandb, to be synced later."""


class MlflowSpec(Model):
    """A run on MLflow."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.secretRef) || has(self.trackingUri)",
                "secretRef needs trackingUri, since without a server nothing is sent: add it, or remove secretRef",
            )
        )
    )

    experiment: Annotated[str, Field(min_length=1, max_length=256)] = "sftjob"
    """Experiment."""
    tracking_uri: HttpUrl | None = None
    """Tracking server. Absent: the run stays on the volume, under logs/mlflow."""
    secret_ref: SecretRef | None = None
    """Secret whose keys become environment variables of the Train Pod: MLFLOW_TRACKING_USERNAME,
    MLFLOW_TRACKING_PASSWORD, MLFLOW_TRACKING_TOKEN."""


class TrackingSpec(Model):
    """Where metrics go besides the status and logs/metrics.jsonl. Nothing is sent anywhere unless asked for here."""

    tensorboard: bool = False
    """Write event files to logs/tensorboard. TRL: report_to."""
    wandb: WandbSpec | None = None
    """Weights & Biases. Needs a trainer image built with TRACKERS=wandb. TRL: report_to."""
    mlflow: MlflowSpec | None = None
    """MLflow. Needs a trainer image built with TRACKERS=mlflow. TRL: report_to."""
