"""Paths on a job's volume: the single definition for operator, trainer, docs and tests."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

CACHE: Final = "cache"
"""Hub and library caches."""
KERNELS: Final = f"{CACHE}/kernels"
"""Compiled kernels of Triton and PyTorch's inductor, in a directory for each node."""
PREPARED: Final = "prepared"
"""The tokenized dataset and its statistics."""
PREPARED_TRAIN: Final = f"{PREPARED}/train"
PREPARED_EVALUATION: Final = f"{PREPARED}/evaluation"
PREPARED_EXAMPLES: Final = f"{PREPARED}/examples.txt"
"""The first rows as text, for people; tokens that are trained on are marked."""
PREPARED_REPORT: Final = f"{PREPARED}/report.txt"
"""The rows that were skipped or cut, and why, for people."""
PREPARED_CHAT_TEMPLATE: Final = f"{PREPARED}/chat_template.jinja"
"""The template that spec.model.chatTemplate selects, to save with the model; the tokenizer's own if absent."""
PREPARED_SAMPLES: Final = f"{PREPARED}/samples"
"""The first held-out rows, unpacked, for generated answers."""
PREPARED_PROMPTS: Final = f"{PREPARED}/prompts.json"
"""Held-out prompts with their answers, as tokens, to be answered before and after training."""
PREPARED_STATS: Final = f"{PREPARED}/stats.json"
PREPARED_UNPUBLISHED: Final = f"{PREPARED}/unpublished.json"
"""Input of stage publish: the final checkpoint and the final metrics. Train writes it last."""
PREPARED_OUTCOME: Final = f"{PREPARED}/outcome.json"
"""How the Train stage ended, written when only its output is kept: the data for reporting it again is deleted."""
CHECKPOINTS: Final = "checkpoints"
OUTPUT: Final = "output"
OUTPUT_MODEL: Final = f"{OUTPUT}/model"
"""Full fine-tuning: model and tokenizer."""
OUTPUT_ADAPTER: Final = f"{OUTPUT}/adapter"
"""LoRA and QLoRA: adapter and tokenizer."""
OUTPUT_MERGED: Final = f"{OUTPUT}/merged"
"""LoRA and QLoRA with output.mergeAdapter: the base model with the adapter merged in, and tokenizer."""
LOGS: Final = "logs"
TRAIN_LOG: Final = f"{LOGS}/train.log"
METRICS: Final = f"{LOGS}/metrics.jsonl"
TENSORBOARD: Final = f"{LOGS}/tensorboard"
WANDB: Final = f"{LOGS}/wandb"
MLFLOW: Final = f"{LOGS}/mlflow"
RESULTS: Final = "results"
EVAL_RESULTS: Final = f"{RESULTS}/eval_results.json"
PREDICTIONS: Final = f"{RESULTS}/predictions.jsonl"
"""Generated answers to held-out rows, each {prompt, reference, prediction}."""
SAMPLES: Final = f"{RESULTS}/samples.jsonl"
"""Answers to the user's prompts or to held-out prompts, each {step, prompt, answer}, the latter with reference; for
step 0 and for the output."""
RUN_CONFIG: Final = "config.yaml"
"""The run config with every default resolved, for people."""
MANIFEST: Final = "sftjob-manifest.json"
"""Every file of its directory with size and digest; written last, so its presence marks a complete directory."""
OWNER: Final = "sftjob-owner.json"
"""The SFTJob that the directory belongs to; written first, and checked before anything in the directory is used."""
MOVED_ASIDE: Final = "moved-aside-"
"""With storage.existingContent: MoveAside, a renamed file ends with this and the new job's uid."""

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def checkpoint_name(step: int) -> str:
    """Return the directory name of the checkpoint after `step` optimizer steps (transformers' convention)."""
    return f"checkpoint-{step}"


def node_kernels(rank: int) -> str:
    """Return the directory of the kernels that the node of `rank` compiles, for its next attempt.

    Nodes do not share it. Inductor names temporary files by process ID, which is unique on one node only. On a network
    file system, a library that another node replaces while it is loaded is lost for the node that loaded it.
    """
    return f"{KERNELS}/node-{rank}"


def checkpoint_step(name: str) -> int | None:
    """Return the step of a checkpoint directory, or None for any other name (including staging directories)."""
    found = _CHECKPOINT.fullmatch(name)
    return int(found[1]) if found else None


PVC_SCHEME: Final = "pvc://"
HUB_SCHEME: Final = "hf://"
DATA_FILE_ENDS: Final = (
    *(".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".feather", ".txt"),
    *(".gz", ".bz2", ".xz", ".zst"),
)
ARCHIVE_MARK: Final = ".tar."
"""Part of the file name of a compressed archive, which is read like a folder."""


@dataclass(frozen=True)
class ClaimPath:
    """A path on a PersistentVolumeClaim in the job's namespace: `pvc://CLAIM/PATH`."""

    claim: str
    path: str

    @classmethod
    def parse(cls, uri: str) -> "ClaimPath":
        """Parse `pvc://CLAIM[/PATH]`.

        Raises:
            ValueError: not such a URI, or the path leaves the claim.
        """
        claim, _, path = uri.removeprefix(PVC_SCHEME).partition("/")
        if not uri.startswith(PVC_SCHEME) or not claim or ".." in PurePosixPath(path).parts:
            raise ValueError(f"{uri!r} must be pvc://CLAIM/PATH without '..'")
        return cls(claim, path.strip("/"))

    @property
    def uri(self) -> str:
        """Return the URI."""
        return f"{PVC_SCHEME}{self.claim}/{self.path}"


def may_have_splits(source: str) -> bool:
    """Whether `source` is a hub repository, or has no data file extension and so may be a folder."""
    is_file = source.endswith(DATA_FILE_ENDS) and ARCHIVE_MARK not in source
    return source.startswith(HUB_SCHEME) or not is_file
