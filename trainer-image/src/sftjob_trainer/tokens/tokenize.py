"""Tokenize the rows of a source: read, preprocess, check and tokenize in batches, stored in shards on the volume."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, count, islice
from pathlib import Path
from time import monotonic
from typing import Any, Final

from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import DataFormat, DataSource, RunConfig
from sftjob_trainer.process.errors import ColumnMismatchError, StageError, data_invalid
from sftjob_trainer.rows.examples import Example, detect_format, to_example, unread_columns
from sftjob_trainer.rows.filters import RowFilter
from sftjob_trainer.rows.preprocessing import configured_format, preprocessor
from sftjob_trainer.rows.readers import Row, read_rows
from sftjob_trainer.rows.validation import Check, checked_texts, row_check
from sftjob_trainer.sources.files import DataFile
from sftjob_trainer.tokens.conversations import RENDER_ADVICE, as_turns
from sftjob_trainer.tokens.labels import encoder
from sftjob_trainer.tokens.packing import length_limit
from sftjob_trainer.tokens.shards import (
    ShardProgress,
    read_digests,
    read_progress,
    read_rows_of,
    write_progress,
    write_rows,
)
from sftjob_trainer.tokens.tokenizer import NOT_TRAINED, Encoded, Encoder

logger = logging.getLogger(__name__)

_BATCH_ROWS: Final = 1000
SHARD_ROWS: Final = 10_000
"""Maximum number of rows that are read again after an interrupted stage."""
_REPORT_SECONDS: Final = 30
_MAX_SHOWN: Final = 10
_COLUMN_CHECK_ROWS: Final = 200
"""Number of rows that must all lack a column before it counts as missing from the data."""


@dataclass(frozen=True, kw_only=True)
class Tokenized:
    """The usable rows of a source as a `pyarrow.Table` of `input_ids` and `labels` (list<int32>), in source order.

    `truncated` rows were longer than the limit and lost their end. `untrained` rows are left out because nothing in
    them would be trained. `rendered` are prompts and completions that became turns. `example` is the first usable row,
    cut to the limit; None if every row was left out.
    """

    source: DataSource
    table: Any
    format: DataFormat
    truncated: int
    untrained: int
    rendered: int
    example: Encoded | None


@dataclass(frozen=True, kw_only=True)
class TokenizeContext:
    """Context of tokenization: the run, its tokenizer, its row filter, and a directory for its files."""

    config: RunConfig
    tokenizer: Any
    row_filter: RowFilter
    directory: Path


class _SourceTokenizer:
    """Tokenizes the rows of one source and tracks its progress."""

    def __init__(self, source: DataSource, files: Sequence[DataFile], context: TokenizeContext, check: Check) -> None:
        self.progress = ShardProgress(format=configured_format(source))
        self.source = source.source
        self._columns = source.columns
        self._row_filter = context.row_filter
        self.limit = length_limit(context.config)
        self._preprocess: Callable[[Row], Row] = preprocessor(source)
        self._check = check
        self._encode: Encoder = encoder(context.tokenizer, context.config)
        self._as_turns = as_turns(context.config, context.tokenizer)
        self._is_templated = source.preprocessing is not None and source.preprocessing.template is not None
        self._checked_column = None if source.validation is None else source.validation.column
        self._first_rows = partial(_first_rows, files, source.max_samples)

    def encode_rows(self, rows: Iterable[Row | StageError]) -> list[Encoded]:
        """Those of `rows` to train on, as tokens."""
        pairs = [pair for row in rows if (pair := self._example(row)) is not None]
        examples = []
        for (_, example), refusal in zip(pairs, self._check(pairs), strict=True):
            if refusal is None:
                rendered = self._as_turns(example)
                self.progress.rendered += rendered is not example
                examples.append(rendered)
            else:
                self._reject(refusal, refused=True)
        try:
            encoded = _encoded(examples, self._encode, self._row_filter)
        except StageError as failure:
            if failure.reason is Reason.CONFIG_INVALID and self.progress.rendered:
                raise StageError(failure.reason, f"{failure.message}; {RENDER_ADVICE}") from failure
            raise
        return [row for row in encoded if self._is_kept(row)]

    def resume(self, progress: ShardProgress, shard: Path) -> None:
        """Continue after a shard that an earlier process completed."""
        self.progress = progress
        self._row_filter.resume(progress.left_out, read_digests(shard))

    def complete(self, shard: Path, *, at_end: bool) -> None:
        """Record that all rows so far are in shards, the last of them in `shard`."""
        self.progress.at_end = at_end
        self.progress.left_out = self._row_filter.counts
        write_progress(shard, self.progress)

    def _example(self, row: Row | StageError) -> tuple[Row, Example] | None:
        progress = self.progress
        progress.rows += 1
        try:
            if isinstance(row, StageError):
                raise row
            preprocessed = self._preprocess(row)
            progress.format = progress.format or detect_format(preprocessed, self._columns)
            example = to_example(preprocessed, progress.format, self._columns)
        except StageError as failure:
            self._reject(failure)
            return None
        progress.usable += 1
        if progress.usable == 1 and not self._is_templated:
            _show_unread(unread_columns(preprocessed, progress.format, self._columns))
        return preprocessed, example

    def _reject(self, failure: StageError, *, refused: bool = False) -> None:
        """Leave out a row, unless it lacks a column that every row lacks: then the data as a whole is wrong.

        Raises:
            StageError: the row may not be left out.
        """
        if isinstance(failure, ColumnMismatchError) and not self._row_filter.counts.skipped:
            alike = [self._advice(row) == failure.advice for row in self._first_rows()]
            if all(alike):
                others = "" if len(alike) == 1 else " and every other row"
                others = f" and the {len(alike) - 1} rows after it" if len(alike) == _COLUMN_CHECK_ROWS else others
                problem = f"{failure.location}{others}: {failure.problem}; {failure.advice}"
                raise StageError(Reason.CONFIG_INVALID, problem)
        self._row_filter.reject(failure, refused=refused)

    def _advice(self, row: Row | StageError) -> str | None:
        """What to change in the spec for a row that lacks a column; None if it lacks none."""
        if isinstance(row, StageError):
            return None
        try:
            preprocessed = self._preprocess(row)
            example = to_example(
                preprocessed, self.progress.format or detect_format(preprocessed, self._columns), self._columns
            )
            if self._checked_column is not None:
                deque(checked_texts(preprocessed, example, self._checked_column), maxlen=0)
        except ColumnMismatchError as error:
            return error.advice
        except StageError:
            return None
        return None

    def _is_kept(self, row: Encoded) -> bool:
        progress = self.progress
        if not _is_trained(row.labels[: self.limit]):
            progress.untrained += 1
            progress.first_untrained = progress.first_untrained or row.location
            return False
        if not self._row_filter.keeps(row.input_ids):
            return False
        progress.truncated += self.limit is not None and len(row.input_ids) > self.limit
        progress.first_kept = progress.first_kept or row.location
        return True


def tokenize(source: DataSource, files: Sequence[DataFile], context: TokenizeContext, name: str) -> Tokenized:
    """Read, check and tokenize the rows of `files`, up to the limit of `source`, into the directory `name`.

    Complete shards in that directory are reused.

    Raises:
        StageError: a row is unusable, or no row has anything to train on.
    """
    import pyarrow as pa

    rows = islice(read_rows(files), source.max_samples)
    with row_check(source.validation) as check:
        source_tokenizer = _SourceTokenizer(source, files, context, check)
        shards = list(_shards(source_tokenizer, rows, context.directory / name))
    table, progress = pa.concat_tables([read_rows_of(shard) for shard in shards]), source_tokenizer.progress
    if progress.format is None or not progress.usable:
        problem = context.row_filter.counts.first_problem
        raise data_invalid(source.source, f"no row can be used; the first that cannot: {problem}")
    if progress.first_untrained is not None and not table.num_rows:
        raise _nothing_to_train_on(progress.first_untrained, source_tokenizer.limit)
    return Tokenized(
        source=source,
        table=table,
        format=progress.format,
        truncated=progress.truncated,
        untrained=progress.untrained,
        rendered=progress.rendered,
        example=_first_example(table, progress.first_kept),
    )


def _show_unread(columns: Sequence[str]) -> None:
    if columns:
        more = f" and {len(columns) - _MAX_SHOWN} more" if len(columns) > _MAX_SHOWN else ""
        logger.info("      columns that are not read: %s%s", ", ".join(map(repr, columns[:_MAX_SHOWN])), more)


def _first_rows(files: Sequence[DataFile], max_samples: int | None) -> Iterator[Row | StageError]:
    return islice(read_rows(files), min(_COLUMN_CHECK_ROWS, max_samples or _COLUMN_CHECK_ROWS))


def _shards(source_tokenizer: _SourceTokenizer, rows: Iterator[Row | StageError], directory: Path) -> Iterator[Path]:
    """Yield the shards of a source one after the other, and log progress if the source takes long."""
    started = logged_at = monotonic()
    for number in count():
        shard = directory / f"{number:06}.arrow"
        complete = read_progress(shard)
        if complete is not None:
            source_tokenizer.resume(complete, shard)
            if not complete.at_end:
                deque(islice(rows, SHARD_ROWS), maxlen=0)
        else:
            rows_before = source_tokenizer.progress.rows
            write_rows(shard, _batches(source_tokenizer, islice(rows, SHARD_ROWS)), source_tokenizer.limit)
            source_tokenizer.complete(shard, at_end=source_tokenizer.progress.rows - rows_before < SHARD_ROWS)
        yield shard
        if source_tokenizer.progress.at_end:
            return
        if (now := monotonic()) - logged_at >= _REPORT_SECONDS:
            logged_at = now
            logger.info(
                "      %s: %s rows tokenized in %.0f s",
                source_tokenizer.source,
                source_tokenizer.progress.rows,
                now - started,
            )


def _batches(source_tokenizer: _SourceTokenizer, rows: Iterator[Row | StageError]) -> Iterator[list[Encoded]]:
    for first in rows:
        yield source_tokenizer.encode_rows(chain([first], islice(rows, _BATCH_ROWS - 1)))


def _first_example(table: Any, location: str | None) -> Encoded | None:
    if location is None:
        return None
    (row,) = table.slice(0, 1).to_pylist()
    return Encoded(location, row["input_ids"], row["labels"])


def _nothing_to_train_on(location: str, limit: int | None) -> StageError:
    return data_invalid(
        f"{location} and every other row",
        "no token to train on in the row; check that the chat template marks what the assistant writes"
        if limit is None
        else f"no token to train on among the first {limit} of the row; "
        "raise training.maxLength, or check that the chat template marks what the assistant writes",
    )


def _encoded(examples: Sequence[Example], encode: Encoder, row_filter: RowFilter) -> list[Encoded]:
    """`examples` as tokens, without those that prove unusable."""
    try:
        return encode(examples)
    except StageError as failure:
        if failure.reason is not Reason.DATA_INVALID:
            raise
        if len(examples) == 1:
            row_filter.reject(failure)
            return []
    return [row for example in examples for row in _encoded([example], encode, row_filter)]


def _is_trained(labels: Sequence[int]) -> bool:
    """Whether a loss would result from `labels`; the first token of a sequence is never predicted."""
    return any(label != NOT_TRAINED for label in labels[1:])
