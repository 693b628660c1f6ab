"""Names that several programs share: the API, labels, environment variables, mounts and file keys.

Every key documents its writer and its reader. No other file spells these names out.
"""

from enum import StrEnum
from typing import Final

GROUP: Final = "sftjob.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "SFTJob"
PLURAL: Final = "sftjobs"
SINGULAR: Final = "sftjob"
SHORT_NAME: Final = "sft"

# Labels. Written by the operator on every child; read by its watch selector, by people and by dashboards.
LABEL_JOB: Final = f"{GROUP}/job"
"""Name of the SFTJob that a child belongs to."""
LABEL_STAGE: Final = f"{GROUP}/stage"
"""The Stage that a Pod runs."""
LABEL_ATTEMPT: Final = f"{GROUP}/attempt"
"""Attempt number of a Pod, counted from 1 within its stage."""
LABEL_NODE_RANK: Final = f"{GROUP}/node-rank"
"""Rank of a Train Pod within its attempt, from 0; only with several nodes."""
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGED_BY: Final = "sftjob-operator"

ANNOTATION_CONFIG_HASH: Final = f"{GROUP}/config-hash"
"""SHA-256 of the run config. Written by the operator on Pods and the ConfigMap; copied to status.provenance."""
ANNOTATION_JOB_UID: Final = f"{GROUP}/job-uid"
"""UID of the SFTJob that a claim was created for. Written by the operator on claims that outlive their job and so have
no owner; read to identify its own claims."""


class Stage(StrEnum):
    """The stages of a job; also the trainer's sub-commands and the values of LABEL_STAGE."""

    PREPARE = "prepare"
    TRAIN = "train"
    PUBLISH = "publish"
    """Merges, pushes or uploads the output of the final checkpoint, without GPUs. Only if one of them is configured."""

    @property
    def place(self) -> int:
        """Position among the stages of a job, from 0."""
        return list(type(self)).index(self)


CONTAINER: Final = "trainer"
"""Name of the only container in every Pod of a job, so that `kubectl logs` needs no -c."""
TRAINER_COMMAND: Final = ("python", "-m", "sftjob_trainer")
"""Command of a trainer image; the stage is the only argument."""

# Environment of a job's Pods. Written by the operator's render, read by the trainer.
ENV_RUN_CONFIG: Final = "SFTJOB_RUN_CONFIG"
"""Path of the run config (JSON)."""
ENV_CONFIG_HASH: Final = "SFTJOB_CONFIG_HASH"
"""SHA-256 of the run config that the Pod was created with, in hexadecimal: the trainer waits until the mounted file
matches. Absent (an operator of an earlier version): any file is read."""
ENV_VOLUME: Final = "SFTJOB_VOLUME"
"""Root of the job's volume; sftjob_contract.layout defines its layout."""
ENV_VOLUME_URI: Final = "SFTJOB_VOLUME_URI"
"""The same location as a pvc:// URI, as another job's source would name it. Absent: messages show the path."""
ENV_CLAIMS: Final = "SFTJOB_CLAIMS"
"""Directory that contains the mount of each claim of a pvc:// URI, read-only, named after the claim."""
ENV_CACHE: Final = "SFTJOB_CACHE"
"""Directory for downloads: on the job's volume, or on a shared claim."""
ENV_NODES: Final = "SFTJOB_NODES"
"""Number of Train Pods of the attempt, one on each node. Absent: one."""
ENV_NODE_RANK: Final = "SFTJOB_NODE_RANK"
"""Rank of this Pod, from 0. Absent: 0."""
ENV_RENDEZVOUS: Final = "SFTJOB_RENDEZVOUS"
"""HOST:PORT of the Pod of rank 0, for the rendezvous. Absent: with one Pod."""
ENV_ATTEMPT: Final = "SFTJOB_ATTEMPT"
"""Attempt number, from 1."""
ENV_FILES: Final = "SFTJOB_FILES"
"""Directory of the user's own files; the run config's `file` is relative to it. Absent: no files."""
ENV_MICRO_BATCH: Final = "SFTJOB_MICRO_BATCH"
"""perDeviceBatchSize of this attempt, lowered after an out-of-memory error. Absent: the run config's. The accumulation
grows by the same factor, so that the global batch and the order of the data do not change."""
ENV_GRADIENT_CHECKPOINTING: Final = "SFTJOB_GRADIENT_CHECKPOINTING"
"""true or false: gradient checkpointing of this attempt, by the plan or after an out-of-memory error; applies if the
run config leaves it open. Absent: true."""
ENV_PUBLISH_STAGE: Final = "SFTJOB_PUBLISH_STAGE"
"""true in Train Pods whose output stage publish handles. Absent: Train merges, pushes and uploads itself."""
ENV_GRACE_SECONDS: Final = "SFTJOB_GRACE_SECONDS"
"""The Pod's terminationGracePeriodSeconds: the time for a checkpoint after SIGTERM."""
ENV_TERMINATION_LOG: Final = "SFTJOB_TERMINATION_LOG"
"""File for the Outcome; the kubelet copies it into the Pod's status."""
ENV_PROGRESS_URL: Final = "SFTJOB_PROGRESS_URL"
"""URL to POST Progress to. Absent: no live reports."""
ENV_PROGRESS_CA: Final = "SFTJOB_PROGRESS_CA"
"""PEM file that verifies the progress endpoint."""
ENV_PROGRESS_TOKEN: Final = "SFTJOB_PROGRESS_TOKEN"  # noqa: S105 -- the variable's name, not a token
"""File with the projected ServiceAccount token; read again before every report, since the kubelet rotates it."""
ENV_KUBEFLOW_URL: Final = "KUBEFLOW_TRAINER_SERVER_URL"
"""URL that an unmodified transformers Trainer POSTs Kubeflow's trainer status to. This variable and the two below are
set in Pods with spec.command; transformers.integrations.KubeflowCallback defines their names."""
ENV_KUBEFLOW_CA: Final = "KUBEFLOW_TRAINER_SERVER_CA_CERT"
"""PEM file that verifies that URL."""
ENV_KUBEFLOW_TOKEN: Final = "KUBEFLOW_TRAINER_SERVER_TOKEN"  # noqa: S105 -- the variable's name, not a token
"""File with the projected ServiceAccount token."""
ENV_HUB_TOKEN: Final = "HF_TOKEN"  # noqa: S105 -- the variable's name, not a token
"""Hub token: in Prepare Pods from spec.model.tokenSecretRef or spec.dataset.tokenSecretRef, in Publish Pods from
spec.output.hub.tokenSecretRef."""
ENV_WANDB_API_KEY: Final = "WANDB_API_KEY"
"""From spec.tracking.wandb.apiKeySecretRef, in Train Pods."""
ENV_SECRET_VARIABLES: Final = "SFTJOB_SECRET_VARIABLES"  # noqa: S105 -- the variable's name, not a secret
"""Names of the user's variables that come from Secrets, separated by commas: the trainer never shows their values."""
VARIABLES: Final[frozenset[str]] = frozenset(value for name, value in vars().items() if name.startswith("ENV_"))
"""All of them: spec.env cannot set them."""

TOKEN_AUDIENCE: Final = "sftjob-progress"  # noqa: S105 -- an audience, not a token
"""Audience of the projected token; the operator's TokenReview requires it."""
TOKEN_EXPIRATION_SECONDS: Final = 3600
PROGRESS_BODY_LIMIT_BYTES: Final = 64 * 1024
"""Larger reports are rejected with 413."""
TERMINATION_MESSAGE_LIMIT_BYTES: Final = 4096
"""The kubelet's limit for one container."""

# Mounts in the container.
MOUNT_VOLUME: Final = "/sftjob"
MOUNT_CONFIG: Final = "/etc/sftjob"
MOUNT_TOKEN: Final = "/var/run/secrets/sftjob"  # noqa: S105 -- a directory
MOUNT_CLAIMS: Final = "/mnt/claims"
MOUNT_CACHE: Final = "/mnt/cache"
"""The claim for downloads that several jobs share (spec.storage.sharedCacheClaim)."""
MOUNT_FILES: Final = "/etc/sftjob-files"
"""The user's own files, in Prepare Pods: CONFIGMAP/KEY for each configMapKeyRef of the spec."""
MOUNT_TMP: Final = "/tmp"  # noqa: S108 -- an emptyDir in the container
MOUNT_SHM: Final = "/dev/shm"  # noqa: S108 -- an emptyDir in the container
RENDEZVOUS_PORT: Final = 29400
"""Port of the rank 0 Pod for the rendezvous (torchrun's default)."""
TERMINATION_LOG: Final = "/dev/termination-log"

# Keys of the job's ConfigMap, which are the files below MOUNT_CONFIG.
CONFIG_KEY: Final = "config.json"
CA_KEY: Final = "ca.crt"
TOKEN_KEY: Final = "token"  # noqa: S105 -- a file name


def progress_path(namespace: str, name: str) -> str:
    """Return the path of one job's progress endpoint, which its trainer `POST`s to."""
    return f"/v1/namespaces/{namespace}/{PLURAL}/{name}/progress"


def trainer_status_path(namespace: str, name: str) -> str:
    """Return the path of one job's endpoint for Kubeflow's trainer status, which a custom image `POST`s to."""
    return f"/v1/namespaces/{namespace}/{PLURAL}/{name}/trainer-status"
