"""Names that more than one program uses: the API, labels, environment variables, mounts and file keys.

Every key says who writes it and who reads it. Nothing here may be spelled out anywhere else.
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
"""Which Stage a Pod runs."""
LABEL_ATTEMPT: Final = f"{GROUP}/attempt"
"""Attempt number of a Pod, counted from 1 within its stage."""
LABEL_NODE_RANK: Final = f"{GROUP}/node-rank"
"""Which of an attempt's Train Pods a Pod is, from 0; only with several nodes."""
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGED_BY: Final = "sftjob-operator"

ANNOTATION_CONFIG_HASH: Final = f"{GROUP}/config-hash"
"""SHA-256 of the run config. Written by the operator on Pods and the ConfigMap; read into status.provenance."""
ANNOTATION_JOB_UID: Final = f"{GROUP}/job-uid"
"""UID of the SFTJob that a claim was made for. Written by the operator on claims that outlive their job and so have no
owner; read by it to tell its own claim from another's."""


class Stage(StrEnum):
    """The stages of a job; also the trainer's sub-commands and the values of LABEL_STAGE."""

    PREPARE = "prepare"
    TRAIN = "train"
    PUBLISH = "publish"
    """Only where the output is to be merged, pushed or uploaded: without GPUs, from the final checkpoint."""

    @property
    def place(self) -> int:
        """Its position in the life of a job, from 0."""
        return list(type(self)).index(self)


CONTAINER: Final = "trainer"
"""Name of the one container in every Pod of a job, so that `kubectl logs` needs no -c."""
TRAINER_COMMAND: Final = ("python", "-m", "sftjob_trainer")
"""How a trainer image is started; the stage is the only argument."""

# Environment of a job's Pods. Written by the operator's render, read by the trainer.
ENV_RUN_CONFIG: Final = "SFTJOB_RUN_CONFIG"
"""Path of the run config (JSON)."""
ENV_CONFIG_HASH: Final = "SFTJOB_CONFIG_HASH"
"""SHA-256 of the run config that the Pod was created with, in hexadecimal: the trainer waits until the mounted file has
it. Absent (an operator of an earlier version): any file is read."""
ENV_VOLUME: Final = "SFTJOB_VOLUME"
"""Root of the job's volume, laid out as sftjob_contract.layout says."""
ENV_VOLUME_URI: Final = "SFTJOB_VOLUME_URI"
"""The same place as the pvc:// URI that another job's source would have. Absent: messages name the path."""
ENV_CLAIMS: Final = "SFTJOB_CLAIMS"
"""Directory below which each claim named by a pvc:// URI is mounted, read-only, under its own name."""
ENV_CACHE: Final = "SFTJOB_CACHE"
"""Directory for downloads: on the job's volume, or on a claim that several jobs share."""
ENV_NODES: Final = "SFTJOB_NODES"
"""How many Train Pods the attempt has, one on each node. Absent: one."""
ENV_NODE_RANK: Final = "SFTJOB_NODE_RANK"
"""Which of them this Pod is, from 0. Absent: 0."""
ENV_RENDEZVOUS: Final = "SFTJOB_RENDEZVOUS"
"""HOST:PORT of the Pod of rank 0, where the others find it. Absent: with one Pod."""
ENV_ATTEMPT: Final = "SFTJOB_ATTEMPT"
"""Attempt number, from 1."""
ENV_FILES: Final = "SFTJOB_FILES"
"""Directory of the user's own files, to which the run config's `file` is relative. Absent: there are none."""
ENV_MICRO_BATCH: Final = "SFTJOB_MICRO_BATCH"
"""perDeviceBatchSize of this attempt, lowered after an out-of-memory error. Absent: the run config's. The accumulation
grows by the same factor, so that the global batch and the order of the data stay."""
ENV_GRADIENT_CHECKPOINTING: Final = "SFTJOB_GRADIENT_CHECKPOINTING"
"""true or false: what this attempt does where the run config leaves it open, by the plan or after an out-of-memory
error. Absent: true."""
ENV_PUBLISH_STAGE: Final = "SFTJOB_PUBLISH_STAGE"
"""true in Train Pods whose output is left to stage publish. Absent: Train merges, pushes and uploads by itself."""
ENV_GRACE_SECONDS: Final = "SFTJOB_GRACE_SECONDS"
"""The Pod's terminationGracePeriodSeconds: how long a checkpoint may take after SIGTERM."""
ENV_TERMINATION_LOG: Final = "SFTJOB_TERMINATION_LOG"
"""File that receives the Outcome; the kubelet copies it into the Pod's status."""
ENV_PROGRESS_URL: Final = "SFTJOB_PROGRESS_URL"
"""Where to POST Progress. Absent: nothing is reported live."""
ENV_PROGRESS_CA: Final = "SFTJOB_PROGRESS_CA"
"""PEM file that verifies the progress endpoint."""
ENV_PROGRESS_TOKEN: Final = "SFTJOB_PROGRESS_TOKEN"  # noqa: S105 -- the variable's name, not a token
"""File with the projected ServiceAccount token; re-read before every report since the kubelet rotates it."""
ENV_KUBEFLOW_URL: Final = "KUBEFLOW_TRAINER_SERVER_URL"
"""Where an unmodified transformers Trainer POSTs Kubeflow's trainer status. This and the two below are in Pods with
spec.command; transformers.integrations.KubeflowCallback names them."""
ENV_KUBEFLOW_CA: Final = "KUBEFLOW_TRAINER_SERVER_CA_CERT"
"""PEM file that verifies that address."""
ENV_KUBEFLOW_TOKEN: Final = "KUBEFLOW_TRAINER_SERVER_TOKEN"  # noqa: S105 -- the variable's name, not a token
"""File with the projected ServiceAccount token."""
ENV_HUB_TOKEN: Final = "HF_TOKEN"  # noqa: S105 -- the variable's name, not a token
"""Hub token: in Prepare Pods from spec.model.tokenSecretRef or spec.dataset.tokenSecretRef, in Publish Pods from
spec.output.hub.tokenSecretRef."""
ENV_WANDB_API_KEY: Final = "WANDB_API_KEY"
"""From spec.tracking.wandb.apiKeySecretRef, in Train Pods."""
ENV_SECRET_VARIABLES: Final = "SFTJOB_SECRET_VARIABLES"  # noqa: S105 -- the variable's name, not a secret
"""Names of the user's variables that come from Secrets, separated by commas: the trainer shows the value of none."""

TOKEN_AUDIENCE: Final = "sftjob-progress"  # noqa: S105 -- an audience, not a token
"""Audience of the projected token; the operator asks TokenReview for exactly this one."""
TOKEN_EXPIRATION_SECONDS: Final = 3600
PROGRESS_BODY_LIMIT_BYTES: Final = 64 * 1024
"""A larger report is refused with 413."""
TERMINATION_MESSAGE_LIMIT_BYTES: Final = 4096
"""The kubelet's own limit for one container."""

# Mounts inside the container.
MOUNT_VOLUME: Final = "/sftjob"
MOUNT_CONFIG: Final = "/etc/sftjob"
MOUNT_TOKEN: Final = "/var/run/secrets/sftjob"  # noqa: S105 -- a directory
MOUNT_CLAIMS: Final = "/mnt/claims"
MOUNT_CACHE: Final = "/mnt/cache"
"""The claim that several jobs share their downloads on (spec.storage.sharedCacheClaim)."""
MOUNT_FILES: Final = "/etc/sftjob-files"
"""The user's own files, in Prepare Pods: CONFIGMAP/KEY for each configMapKeyRef of the spec."""
MOUNT_TMP: Final = "/tmp"  # noqa: S108 -- an emptyDir in the container
MOUNT_SHM: Final = "/dev/shm"  # noqa: S108 -- an emptyDir in the container
RENDEZVOUS_PORT: Final = 29400
"""Port of the rank 0 Pod that the others connect to (torchrun's usual one)."""
TERMINATION_LOG: Final = "/dev/termination-log"

# Keys of the job's ConfigMap, and so the files below MOUNT_CONFIG.
CONFIG_KEY: Final = "config.json"
CA_KEY: Final = "ca.crt"
TOKEN_KEY: Final = "token"  # noqa: S105 -- a file name


def progress_path(namespace: str, name: str) -> str:
    """Path of the progress endpoint for one job, as `POST`ed by its trainer."""
    return f"/v1/namespaces/{namespace}/{PLURAL}/{name}/progress"


def trainer_status_path(namespace: str, name: str) -> str:
    """Path of the same endpoint for one job, where an image of the user's own `POST`s Kubeflow's trainer status."""
    return f"/v1/namespaces/{namespace}/{PLURAL}/{name}/trainer-status"
