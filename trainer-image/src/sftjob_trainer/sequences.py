"""From data files to what the trainer iterates over: tokenized rows on the volume, and sequences packed from them.

Rows pass through in batches and lie in Arrow files that are mapped into memory, so any number of them needs the memory
of a few batches.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

from sftjob_contract.config import DataFormat, DataSource, PackingStrategy, RunConfig
from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure, data_invalid
from sftjob_trainer.files import DataFile
from sftjob_trainer.filters import Sieve
from sftjob_trainer.labels import encoder
from sftjob_trainer.readers import Row, read_rows
from sftjob_trainer.shapes import Example, detect_format, to_example
from sftjob_trainer.tokenization import NOT_TRAINED, Encoded, Encoder

_BATCH_ROWS: Final = 1000


@dataclass(frozen=True, kw_only=True)
class Tokenized:
    """The usable rows of a source as a `pyarrow.Table` of `input_ids` and `labels` (list<int32>), in source order.

    `truncated` rows were longer than the limit and lost their end; `untrained` rows are left out since nothing of
    them would be trained. `example` is the first usable row, None if every row was left out.
    """

    source: DataSource
    table: Any
    format: DataFormat
    truncated: int
    untrained: int
    example: Encoded | None


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """What rows are tokenized with: the run, its tokenizer, the sieve of its rows, and a directory for their files."""

    config: RunConfig
    tokenizer: Any
    sieve: Sieve
    directory: Path


class _Tally:
    """Chooses the rows that stay, and counts what happens to them."""

    def __init__(self, sieve: Sieve, limit: int | None) -> None:
        self.truncated = 0
        self.untrained = 0
        self.example: Encoded | None = None
        self.first_untrained: Encoded | None = None
        self._sieve = sieve
        self._limit = limit

    def usable(self, rows: Sequence[Encoded]) -> list[Encoded]:
        """Those of `rows` that are kept and from which a loss would come."""
        kept = []
        for row in rows:
            if not _is_trained(row.labels[: self._limit]):
                self.untrained += 1
                self.first_untrained = self.first_untrained or row
            elif self._sieve.keeps(row.input_ids):
                kept.append(row)
        self.truncated += sum(self._limit is not None and len(row.input_ids) > self._limit for row in kept)
        self.example = self.example or next(iter(kept), None)
        return kept


def tokenize(source: DataSource, files: Sequence[DataFile], workshop: Workshop, name: str) -> Tokenized:
    """Read, check and tokenize the rows of `files`, at most the first that `source` allows, into the file `name`.

    Raises:
        Failure: a row can not be used, or no row has anything to train on.
    """
    sieve, limit = workshop.sieve, length_limit(workshop.config)
    shape, rows = _detected(islice(read_rows(files), source.max_samples), source, sieve)
    encode = encoder(workshop.tokenizer, workshop.config)
    tally = _Tally(sieve, limit)
    batches = (
        _record_batch(tally.usable(_encoded(batch, encode, sieve)), limit)
        for batch in _batches(_examples(rows, shape, source, sieve))
    )
    table = write_table(workshop.directory / name, batches)
    if tally.first_untrained is not None and not table.num_rows:
        raise data_invalid(
            f"{tally.first_untrained.place} and every other row",
            "no token to train on in the row; check that the chat template marks what the assistant writes"
            if limit is None
            else f"no token to train on among the first {limit} of the row; "
            "raise training.maxLength, or check that the chat template marks what the assistant writes",
        )
    return Tokenized(
        source=source,
        table=table,
        format=shape,
        truncated=tally.truncated,
        untrained=tally.untrained,
        example=tally.example,
    )


def write_table(path: Path, batches: Iterable[Any]) -> Any:
    """Write record batches of rows to an Arrow file and map it into memory as a `pyarrow.Table`."""
    import pyarrow as pa

    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _schema()) as writer:
        for batch in batches:
            if batch.num_rows:
                writer.write_batch(batch)
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def to_dataset(table: Any, config: RunConfig, scratch: Path) -> Any:
    """The rows of `table` as a `datasets.Dataset` of sequences: the rows themselves, or packed by TRL.

    What is packed lies in the file `scratch` until the data set is saved.
    """
    from datasets import Dataset

    # Without a fingerprint given, datasets would hash the whole table; nothing of ours is cached by it.
    dataset = Dataset(table, fingerprint=scratch.stem)
    if not config.training.packing:
        return dataset
    from trl import pack_dataset

    return pack_dataset(
        dataset,
        seq_length=config.training.max_length,
        strategy=config.training.packing_strategy.value,
        map_kwargs={"cache_file_name": str(scratch)},
    )


def length_limit(config: RunConfig) -> int | None:
    """Tokens that a row may have before it is cut; None where packing cuts sequences and not rows."""
    wrapped = config.training.packing and config.training.packing_strategy is PackingStrategy.WRAPPED
    return None if wrapped else config.training.max_length


def count_tokens(table: Any) -> int:
    """Tokens in `table`."""
    from pyarrow import compute

    return int(compute.sum(compute.list_value_length(table["input_ids"])).as_py() or 0)


def count_trained_tokens(table: Any) -> int:
    """Tokens in `table` that have a label."""
    from pyarrow import compute

    return int(compute.sum(compute.not_equal(compute.list_flatten(table["labels"]), NOT_TRAINED)).as_py() or 0)


def largest_token(table: Any) -> int:
    """The highest token id in `table`; 0 if there is none."""
    from pyarrow import compute

    return int(compute.max(compute.list_flatten(table["input_ids"])).as_py() or 0)


def _detected(
    rows: Iterator[Row | Failure], source: DataSource, sieve: Sieve
) -> tuple[DataFormat, Iterator[Row | Failure]]:
    """The shape of the rows, which the first one that can be used tells, and all that are left to read."""
    if source.format is not DataFormat.AUTO:
        return source.format, rows
    for row in rows:
        try:
            shape = detect_format(_readable(row), source.columns)
        except Failure as failure:
            sieve.reject(failure)
        else:
            return shape, chain([row], rows)
    raise _unusable(source, sieve)


def _examples(rows: Iterable[Row | Failure], shape: DataFormat, source: DataSource, sieve: Sieve) -> Iterator[Example]:
    empty = True
    for row in rows:
        try:
            example = to_example(_readable(row), shape, source.columns)
        except Failure as failure:
            sieve.reject(failure)
        else:
            empty = False
            yield example
    if empty:
        raise _unusable(source, sieve)


def _unusable(source: DataSource, sieve: Sieve) -> Failure:
    return data_invalid(source.source, f"no row can be used; the first that can not: {sieve.first_problem}")


def _readable(row: Row | Failure) -> Row:
    if isinstance(row, Failure):
        raise row
    return row


def _batches(examples: Iterator[Example]) -> Iterator[list[Example]]:
    while batch := list(islice(examples, _BATCH_ROWS)):
        yield batch


def _encoded(examples: Sequence[Example], encode: Encoder, sieve: Sieve) -> list[Encoded]:
    """`examples` as tokens, without those that turn out to be unusable."""
    try:
        return encode(examples)
    except Failure as failure:
        if failure.reason is not Reason.DATA_INVALID:
            raise
        if len(examples) == 1:
            sieve.reject(failure)
            return []
    return [row for example in examples for row in _encoded([example], encode, sieve)]


def _is_trained(labels: Sequence[int]) -> bool:
    """Whether a loss would come from `labels`; the first token of a sequence is never predicted."""
    return any(label != NOT_TRAINED for label in labels[1:])


def _schema() -> Any:
    import pyarrow as pa

    kind = pa.list_(pa.int32())
    return pa.schema({"input_ids": kind, "labels": kind})


def _record_batch(rows: Sequence[Encoded], limit: int | None) -> Any:
    import pyarrow as pa

    columns = [[row.input_ids[:limit] for row in rows], [row.labels[:limit] for row in rows]]
    return pa.record_batch(columns, schema=_schema())
