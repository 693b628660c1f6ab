"""What the Prepare stage found out about the data, stored on the volume and told in its Outcome."""

from dataclasses import dataclass, field
from typing import Final

from sftjob_contract.config import DataFormat
from sftjob_contract.model_shape import ModelShape

STATS_VERSION: Final = 1


@dataclass(frozen=True, kw_only=True)
class PreparedStats:
    """The prepared data set.

    `format` is that of the first source. `rows` counts usable rows of all sources, `train_rows` and `evaluation_rows`
    how they were split; a row that an epoch uses several times, by its source's weight, counts as often. `sequences`
    and `evaluation_sequences` are what the trainer iterates over: rows, or packed sequences of at most `max_length`
    tokens. `tokens` and `trained_tokens` (those with a label) count the training part. `truncated_rows` were longer
    than `max_length`. `max_steps` is the number of optimizer steps of the whole run.
    `skipped_rows` could not be used (onInvalidRow: Skip), `refused_rows` of them since they did not pass
    dataset.validation; `duplicate_rows` were equal to an earlier one, `filtered_rows` were too short or too long; none
    of them is among `rows`.
    `rendered_rows` are prompts and completions of text that became turns of a conversation.
    `passed_over_files` are at the sources and not read. `warnings` say what of the data needs a look, a sentence each.
    `dataset_fingerprint` is of the data files and of the functions of dataset.preprocessing, `code_fingerprint` of the
    latter alone, None where there are none.
    `embedding_rows`: how many rows the embedding of the model gets for its new tokens; None: as many as it has.
    `model_snapshot` is where a downloaded model lies, relative to the cache; None when it is read in place; so is
    `teacher_snapshot` for the teacher of a distillation. `free_bytes` is the room that Prepare left on the volume, None
    where the filesystem does not say. `publish_stage`: this trainer has the stage publish, so that Train can leave the
    output to it; None: an earlier trainer. Neither is a part of what was prepared.
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
