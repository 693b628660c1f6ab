"""Where things lie on a job's volume. The one definition of these paths for operator, trainer, docs and tests."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

CACHE: Final = "cache"
"""Hub and library caches."""
PREPARED: Final = "prepared"
"""The tokenized data set and its statistics."""
PREPARED_TRAIN: Final = f"{PREPARED}/train"
PREPARED_EVALUATION: Final = f"{PREPARED}/evaluation"
PREPARED_EXAMPLES: Final = f"{PREPARED}/examples.txt"
PREPARED_REPORT: Final = f"{PREPARED}/report.txt"
"""The first rows as text, with what is trained on marked, for people."""
PREPARED_CHAT_TEMPLATE: Final = f"{PREPARED}/chat_template.jinja"
"""The template that spec.model.chatTemplate asks for, to leave with the model; the tokenizer's own if it is absent."""
PREPARED_SAMPLES: Final = f"{PREPARED}/samples"
"""The first held-out rows, unpacked, where answers to them are to be generated."""
PREPARED_PROMPTS: Final = f"{PREPARED}/prompts.json"
"""Prompts of held-out rows with their answers, in tokens, where they are to be answered before and after training."""
PREPARED_STATS: Final = f"{PREPARED}/stats.json"
PREPARED_UNPUBLISHED: Final = f"{PREPARED}/unpublished.json"
"""What stage publish makes the output of: the final checkpoint and the final metrics. Written by Train, last."""
PREPARED_OUTCOME: Final = f"{PREPARED}/outcome.json"
"""How the Train stage ended, where only its output was kept: what it would need to tell once more is gone."""
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
"""Generated answers to held-out rows: {prompt, reference, prediction} each."""
SAMPLES: Final = f"{RESULTS}/samples.jsonl"
"""Answers to the user's prompts, or to those of held-out rows: {step, prompt, answer} each, the latter with reference;
of step 0 and of the output."""
RUN_CONFIG: Final = "config.yaml"
"""The run config with every default resolved, for people."""
MANIFEST: Final = "sftjob-manifest.json"
"""Every file of its directory with size and digest; written last, so that its presence says complete."""
OWNER: Final = "sftjob-owner.json"
"""Which SFTJob the directory belongs to; written first, and checked before anything in the directory is used."""
MOVED_ASIDE: Final = "moved-aside-"
"""With storage.existingContent: MoveAside, the name of what was moved aside ends with this and the new job's uid."""

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def checkpoint_name(step: int) -> str:
    """Directory name of the checkpoint taken after `step` optimizer steps (transformers' convention)."""
    return f"checkpoint-{step}"


def checkpoint_step(name: str) -> int | None:
    """Step of a checkpoint directory, or None for any other name (staging directories among them)."""
    found = _CHECKPOINT.fullmatch(name)
    return int(found[1]) if found else None


PVC_SCHEME: Final = "pvc://"
HUB_SCHEME: Final = "hf://"
DATA_FILE_ENDS: Final = (
    *(".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".feather", ".txt"),
    *(".gz", ".bz2", ".xz", ".zst"),
)
ARCHIVE_MARK: Final = ".tar."
"""In the name of a compressed archive, which is read like a folder."""


@dataclass(frozen=True)
class ClaimPath:
    """A place on a PersistentVolumeClaim of the job's namespace: `pvc://CLAIM/PATH`."""

    claim: str
    path: str

    @classmethod
    def parse(cls, uri: str) -> "ClaimPath":
        """Parse `pvc://CLAIM[/PATH]`.

        Raises:
            ValueError: not such a URI, or the path climbs out of the claim.
        """
        claim, _, path = uri.removeprefix(PVC_SCHEME).partition("/")
        if not uri.startswith(PVC_SCHEME) or not claim or ".." in PurePosixPath(path).parts:
            raise ValueError(f"{uri!r} must be pvc://CLAIM/PATH without '..'")
        return cls(claim, path.strip("/"))

    @property
    def uri(self) -> str:
        """The URI form."""
        return f"{PVC_SCHEME}{self.claim}/{self.path}"


def may_have_splits(source: str) -> bool:
    """Whether `source` is a repository on the hub, or does not end like a data file and so may be a folder."""
    is_file = source.endswith(DATA_FILE_ENDS) and ARCHIVE_MARK not in source
    return source.startswith(HUB_SCHEME) or not is_file
