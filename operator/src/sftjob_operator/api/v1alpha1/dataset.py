"""Training and evaluation data."""

from collections.abc import Callable
from typing import Annotated, Final

from pydantic import ConfigDict, Field, JsonValue

from sftjob_contract.run.config import DataFormat, OnInvalidRow, Render
from sftjob_operator.api.types import Model, rule, rules
from sftjob_operator.api.v1alpha1.preprocessing import PreprocessingSpec, ValidationSpec
from sftjob_operator.api.v1alpha1.sources import (
    DatasetSource,
    Revision,
    SecretKeyRef,
    SecretRef,
    may_have_splits,
    on_hub,
    remote,
)

Column = Annotated[str, Field(min_length=1, max_length=128)]
Label = Annotated[str, Field(min_length=1, max_length=128)]
Rows = Annotated[int, Field(ge=1, le=1_000_000_000)]
_ON_HUB: Final = on_hub("self.source")
_MAY_HAVE_SPLITS: Final = may_have_splits("self.source")


def _of_one_source(unless: str = "") -> tuple[dict[str, JsonValue], ...]:
    """Rules of one source. `unless` is a CEL prefix that ends in ||; where it holds, the hub rules do not apply."""
    return (
        rule(
            f"!has(self.revision) || {unless}{_ON_HUB}",
            "revision is for a source on the hub only: remove it, or take the source from the hub",
        ),
        rule(
            f"!(has(self.subset) || has(self.split)) || {unless}{_MAY_HAVE_SPLITS}",
            "subset and split are of a dataset on the hub or of a folder: remove them, or name the folder in source",
        ),
        rule(
            "!has(self.format) || !has(self.preprocessing) || !has(self.preprocessing.template) || self.format in "
            "['auto', has(self.preprocessing.template.text) ? 'text' : 'prompt-completion']",
            "preprocessing.template makes rows of format text, or prompt-completion: remove format",
        ),
    )


def _any_source(condition: Callable[[str], str]) -> str:
    """CEL: `condition` holds for any of the sources, including that of the held-out rows."""
    return (
        f"(has(self.source) && {condition('self.source')}) "
        f"|| (has(self.sources) && self.sources.exists(part, {condition('part.source')})) "
        f"|| (has(self.evaluation.source) && {condition('self.evaluation.source')})"
    )


class Columns(Model):
    """Names of the columns that hold each part of a row.

    No field of a list's item has a default here: kubectl would send such a list again at every apply.
    """

    text: Column | None = None
    """The whole text of a row. Absent: text. TRL: dataset_text_field."""
    prompt: Column | None = None
    """The part that is not trained on. Absent: prompt."""
    completion: Column | None = None
    """The part that is trained on. Absent: completion."""
    messages: Column | None = None
    """A list of {role, content}; assistant turns are trained on. Absent: messages."""
    instruction: Column | None = None
    """Format alpaca: what to do. Absent: instruction."""
    input: Column | None = None
    """Format alpaca: what to do it with; the column may be missing. Absent: input."""
    output: Column | None = None
    """Format alpaca: the answer, which is trained on. Absent: output."""
    conversations: Column | None = None
    """Format sharegpt: a list of {from, value}; turns from gpt are trained on. Absent: conversations."""
    system: Column | None = None
    """The system prompt, in every format but text; the column may be missing. Absent: system."""


class HeldOutSpec(Model):
    """What to evaluate on: exactly one of the three."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "[has(self.fraction), has(self.split), has(self.source)].filter(given, given).size() == 1",
                "must have exactly one of fraction, split and source: write fraction: 0 for no evaluation",
            )
        )
    )

    fraction: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of the rows to hold out for evaluation, chosen by dataset.shuffleSeed. 0: no evaluation."""
    split: Label | None = None
    """Split of the same dataset on the hub, or of the same folder, such as validation. AutoTrain: valid_split."""
    source: DatasetSource | None = None
    """A separate dataset, in the same format and with the same columns."""


class DataSourceSpec(Model):
    """One of several sources."""

    model_config = ConfigDict(json_schema_extra=rules(*_of_one_source()))

    source: DatasetSource
    """Where the data is: ORG/NAME or hf://ORG/NAME/PATH on the hub, pvc://CLAIM/PATH, an s3://, gs:// or https://
    URI, or an absolute path in the image."""
    revision: Revision | None = None
    """Branch, tag or commit on the hub."""
    subset: Label | None = None
    """Configuration that the card of a dataset on the hub, or the README.md of a folder, declares."""
    split: Label | None = None
    """Split of a dataset on the hub or of a folder. Absent: train."""
    format: DataFormat | None = None
    """Shape of a row. Absent: dataset.format."""
    columns: Columns | None = None
    """Names of the columns. Absent names: those of dataset.columns."""
    preprocessing: PreprocessingSpec | None = None
    """How columns are computed from each row. Absent: dataset.preprocessing."""
    validation: ValidationSpec | None = None
    """Checks that each row must pass. Absent: dataset.validation."""
    max_samples: Rows | None = None
    """Use only the first rows, this many of them. Absent: all."""
    weight: Annotated[float, Field(gt=0, le=100)] | None = None
    """How often each row is used in one epoch: 2 for twice, 0.5 for half of the rows. Absent: 1."""


class DatasetSpec(Model):
    """The data to train on: .jsonl, .json, .csv, .tsv, .parquet, .arrow or .txt, one file or a folder of them."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.source) != has(self.sources)",
                "must have exactly one of source and sources: write sources to mix several datasets",
            ),
            rule(
                "!has(self.sources) || !(has(self.revision) || has(self.subset) || has(self.split) "
                "|| has(self.maxSamples))",
                "revision, subset, split and maxSamples are of one source: write them inside sources",
            ),
            *_of_one_source("!has(self.source) || "),
            rule(
                "!has(self.evaluation.split) || (has(self.sources) ? self.sources.all(part, "
                f"{may_have_splits('part.source')}) : !has(self.source) || {_MAY_HAVE_SPLITS})",
                "evaluation.split is of datasets on the hub or of folders: write evaluation.source or "
                "evaluation.fraction",
            ),
            rule(
                "!has(self.evaluation.split) || (has(self.sources) ? self.sources.all(part, "
                "(has(part.split) ? part.split : 'train') != self.evaluation.split) : "
                "(has(self.split) ? self.split : 'train') != self.evaluation.split)",
                "evaluation.split must not be the split that is trained on (train, where none is given): write "
                "another one, such as validation",
            ),
            rule(
                "!has(self.evaluation.source) || !has(self.source) || has(self.split) || has(self.subset) "
                "|| self.evaluation.source != self.source",
                "evaluation.source must not be the source that is trained on: write evaluation.fraction to "
                "hold out some of its rows",
            ),
            rule(
                f"!has(self.tokenSecretRef) || {_any_source(on_hub)}",
                "tokenSecretRef is for a source on the hub only: remove it, or take the source from the hub",
            ),
            rule(
                f"!has(self.secretRef) || {_any_source(remote)}",
                "secretRef is for an s3://, gs:// or https:// source only: remove it, or write tokenSecretRef for the "
                "hub",
            ),
            rule(
                "!has(self.minTokens) || !has(self.maxTokens) || self.minTokens <= self.maxTokens",
                "minTokens must be at most maxTokens, or no row is left",
            ),
            rule(
                "!has(self.maxInvalidRows) || self.onInvalidRow == 'Skip'",
                "maxInvalidRows needs onInvalidRow: Skip, since the first invalid row fails the job otherwise",
            ),
        )
    )

    source: DatasetSource | None = None
    """Where the data is: ORG/NAME or hf://ORG/NAME/PATH on the hub, pvc://CLAIM/PATH, an s3://, gs:// or https://
    URI, or an absolute path in the image. TRL: dataset_name."""
    sources: (
        Annotated[
            tuple[DataSourceSpec, ...],
            Field(min_length=1, max_length=16, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
        ]
        | None
    ) = None
    """Several sources to mix, instead of source."""
    revision: Revision | None = None
    """Branch, tag or commit on the hub. Absent: the default branch as it is when the job prepares."""
    subset: Label | None = None
    """Configuration that the card of a dataset on the hub, or the README.md of a folder, declares. TRL:
    dataset_config."""
    split: Label | None = None
    """Split of a dataset on the hub or of a folder: a test set is not trained on unless it is named. Absent: train.
    TRL: dataset_train_split."""
    format: DataFormat = DataFormat.AUTO
    """Shape of a row; auto decides from the columns that are there. messages and sharegpt are rendered with the chat
    template."""
    columns: Columns = Columns()
    """Names of the columns, where they differ from the defaults."""
    render: Render = Render.AUTO
    """Format prompt-completion with text: auto renders a row as one user's and one assistant's turn where the model has
    a chat template, plain trains the text as it is."""
    preprocessing: PreprocessingSpec | None = None
    """How columns are computed from each row, before format and columns apply."""
    validation: ValidationSpec | None = None
    """Checks that each row must pass to be trained on, for data such as code."""
    max_samples: Rows | None = None
    """Use only the first rows, this many of them. Absent: all."""
    shuffle_seed: Annotated[int, Field(ge=0, le=4_294_967_295)] | None = None
    """Seed of the held-out rows and of the order of the others. Absent: training.seed. TRL: data_seed."""
    deduplicate: bool = False
    """Leave out rows that are equal to an earlier one."""
    min_tokens: Annotated[int, Field(ge=1, le=1_048_576)] | None = None
    """Leave out rows of fewer tokens. Absent: none."""
    max_tokens: Annotated[int, Field(ge=1, le=1_048_576)] | None = None
    """Leave out rows of more tokens, instead of cutting them at training.maxLength. Absent: none."""
    on_invalid_row: OnInvalidRow = OnInvalidRow.FAIL
    """What to do with a row that cannot be used: Fail ends the job with its file and line, Skip leaves it out."""
    max_invalid_rows: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    """With onInvalidRow: Skip, the most rows to leave out before the job fails. Absent: 100."""
    evaluation: HeldOutSpec = HeldOutSpec(fraction=0.05)
    """What to evaluate on."""
    token_secret_ref: SecretKeyRef | None = None
    """Secret with a hub token, for private and gated datasets. Only the Prepare Pod sees it."""
    secret_ref: SecretRef | None = None
    """Secret whose keys become environment variables of the Prepare Pod, for s3://, gs:// and https:// sources:
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL and the like."""
