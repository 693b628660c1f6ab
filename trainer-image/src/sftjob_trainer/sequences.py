"""From data files to what the trainer iterates over: tokenized rows, a held-out part, packed sequences."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Final

from sftjob_contract.config import DataFormat, RunConfig
from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure
from sftjob_trainer.files import DataFile, Row, read_rows
from sftjob_trainer.shapes import detect_format, to_example
from sftjob_trainer.tokenization import NOT_TRAINED, Encoded, encoder

_BATCH_ROWS: Final = 1000


@dataclass(frozen=True, kw_only=True)
class Tokenized:
    """The usable rows of a source as a `pyarrow.Table` of `input_ids` and `labels` (list<int32>), in source order.

    `truncated` rows were longer than the limit and lost their end; `untrained` rows are left out since nothing of
    them would be trained. `example` is the first usable row.
    """

    table: Any
    format: DataFormat
    truncated: int
    untrained: int
    example: Encoded


def tokenize(files: Sequence[DataFile], config: RunConfig, tokenizer: Any, max_rows: int | None) -> Tokenized:
    """Read, check and tokenize the rows of `files`, at most the first `max_rows`.

    Raises:
        Failure: a row can not be used, or no row has anything to train on.
    """
    import pyarrow as pa

    rows = islice(read_rows(files), max_rows)
    first = next(rows)
    shape = config.dataset.sources[0].format
    if shape is DataFormat.AUTO:
        shape = detect_format(first, config.dataset.sources[0].columns)
    limit = config.training.max_length
    example: Encoded | None = None
    batches = []
    truncated = untrained = 0
    for encoded in _encoded(chain([first], rows), shape, config, tokenizer):
        usable = [row for row in encoded if _is_trained(row.labels[:limit])]
        truncated += sum(len(row.input_ids) > limit for row in usable)
        untrained += len(encoded) - len(usable)
        if usable:
            example = example or usable[0]
            batches.append(_record_batch(usable, limit))
    if example is None:
        raise Failure(
            Reason.DATA_INVALID,
            f"{first.place} and every other row: no token to train on among the first {limit} of the row; "
            "raise training.maxLength, or check that the chat template marks what the assistant writes",
        )
    return Tokenized(
        table=pa.Table.from_batches(batches),
        format=shape,
        truncated=truncated,
        untrained=untrained,
        example=example,
    )


def to_dataset(table: Any, config: RunConfig) -> Any:
    """The rows of `table` as a `datasets.Dataset` of sequences: the rows themselves, or packed by TRL (best fit)."""
    from datasets import Dataset

    dataset = Dataset(table)
    if not config.training.packing:
        return dataset
    from trl import pack_dataset

    return pack_dataset(dataset, seq_length=config.training.max_length, strategy="bfd")


def count_tokens(table: Any) -> int:
    """Tokens in `table`."""
    from pyarrow import compute

    return int(compute.sum(compute.list_value_length(table["input_ids"])).as_py())


def count_trained_tokens(table: Any) -> int:
    """Tokens in `table` that have a label."""
    from pyarrow import compute

    return int(compute.sum(compute.not_equal(compute.list_flatten(table["labels"]), NOT_TRAINED)).as_py())


def largest_token(table: Any) -> int:
    """The highest token id in `table`."""
    from pyarrow import compute

    return int(compute.max(compute.list_flatten(table["input_ids"])).as_py())


def _encoded(rows: Iterable[Row], shape: DataFormat, config: RunConfig, tokenizer: Any) -> Iterator[list[Encoded]]:
    encode = encoder(tokenizer, shape)
    rows = iter(rows)
    while batch := list(islice(rows, _BATCH_ROWS)):
        yield encode([to_example(row, shape, config.dataset.sources[0].columns) for row in batch])


def _is_trained(labels: Sequence[int]) -> bool:
    """Whether a loss would come from `labels`; the first token of a sequence is never predicted."""
    return any(label != NOT_TRAINED for label in labels[1:])


def _record_batch(rows: Sequence[Encoded], limit: int) -> Any:
    import pyarrow as pa

    kind = pa.list_(pa.int32())
    return pa.record_batch(
        {
            "input_ids": pa.array([row.input_ids[:limit] for row in rows], kind),
            "labels": pa.array([row.labels[:limit] for row in rows], kind),
        }
    )
