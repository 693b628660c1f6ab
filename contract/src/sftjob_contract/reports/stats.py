"""Data statistics of the Prepare stage, stored on the volume and reported in its Outcome."""

from dataclasses import dataclass, field
from typing import Final

from sftjob_contract.reports.model_shape import ModelShape
from sftjob_contract.run.config import DataFormat

STATS_VERSION: Final = 1


@dataclass(frozen=True, kw_only=True)
class PreparedStats:
    """The prepared dataset.

    `format` is that of the first source. `rows` counts usable rows of all sources, `train_rows` and `evaluation_rows`
    their split; a row that an epoch uses several times, by its source's weight, counts as often. `sequences` and
    `evaluation_sequences` count what the trainer iterates over: rows, or packed sequences of at most `max_length`
    tokens. `tokens` and `trained_tokens` (those with a label) count the training part. `truncated_rows` were longer
    than `max_length`. `max_steps` is the number of optimizer steps of the whole run. `skipped_rows` were unusable
    (onInvalidRow: Skip); `refused_rows` of them failed dataset.validation. `duplicate_rows` were equal to an earlier
    one, `filtered_rows` were too short or too long. None of these count in `rows`. `rendered_rows` are plain-text
    prompts and completions that were rendered as turns of a conversation. `passed_over_files` are files at the sources
    that were not read. `warnings` are sentences about data that needs attention. `dataset_fingerprint` covers the data
    files and the functions of dataset.preprocessing, `code_fingerprint` only the latter; None without functions.
    `embedding_rows`: rows of the model's embedding once it has rows for the added tokens; None: unchanged.
    `model_snapshot` is the path of a downloaded model relative to the cache; None when it is read in place.
    `teacher_snapshot` is the same for the teacher of a distillation. `free_bytes` is the space that Prepare left on the
    volume, None if the filesystem does not report it. `publish_stage`: this trainer has the stage publish, so that
    Train can leave the output to it; None: an earlier trainer. Neither describes the prepared data.
    """

    version: int
    format: DataFormat | None
    rows: int
    train_rows: int
    evaluation_rows: int
    truncated_rows: int
    sequences: int
    evaluation_sequences: int
    tokens: int
    trained_tokens: int
    steps_per_epoch: int
    max_steps: int
    dataset_fingerprint: str
    skipped_rows: int = 0
    refused_rows: int = 0
    duplicate_rows: int = 0
    filtered_rows: int = 0
    rendered_rows: int = 0
    passed_over_files: int = 0
    warnings: tuple[str, ...] = ()
    code_fingerprint: str | None = None
    model_snapshot: str | None = None
    teacher_snapshot: str | None = None
    model_revision: str | None = None
    model_shape: ModelShape | None = None
    embedding_rows: int | None = None
    publish_stage: bool | None = field(default=None, compare=False)
    free_bytes: int | None = field(default=None, compare=False)
