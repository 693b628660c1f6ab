"""Rows of a source as tokens: read, preprocessed, checked and tokenized in batches, kept in shards on the volume."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, count, islice
from pathlib import Path
from time import monotonic
from typing import Any, Final

from sftjob_contract.config import DataFormat, DataSource, RunConfig
from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure, UnfitColumnsError, data_invalid
from sftjob_trainer.files import DataFile
from sftjob_trainer.filters import Sieve
from sftjob_trainer.labels import encoder
from sftjob_trainer.preprocessing import given_format, preprocessor
from sftjob_trainer.readers import Row, read_rows
from sftjob_trainer.rendering import WAY_OUT, as_turns
from sftjob_trainer.sequences import length_limit
from sftjob_trainer.shapes import Example, detect_format, to_example, unread_columns
from sftjob_trainer.shards import Reached, read_digests, read_reached, read_rows_of, write_reached, write_rows
from sftjob_trainer.tokenization import NOT_TRAINED, Encoded, Encoder
from sftjob_trainer.validation import Check, checked_texts, checking

logger = logging.getLogger(__name__)

_BATCH_ROWS: Final = 1000
SHARD_ROWS: Final = 10_000
"""Rows that are read anew, at most, after a stage was broken off."""
_REPORT_SECONDS: Final = 30
_MOST_SHOWN: Final = 10
_LOOKED_AT_ROWS: Final = 200
"""Rows that must all lack a column before it counts as missing from the data."""


@dataclass(frozen=True, kw_only=True)
class Tokenized:
    """The usable rows of a source as a `pyarrow.Table` of `input_ids` and `labels` (list<int32>), in source order.

    `truncated` rows were longer than the limit and lost their end; `untrained` rows are left out since nothing of
    them would be trained; `rendered` are prompts and completions that became turns. `example` is the first usable row,
    cut as it is, None if every row was left out.
    """

    source: DataSource
    table: Any
    format: DataFormat
    truncated: int
    untrained: int
    rendered: int
    example: Encoded | None


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """What rows are tokenized with: the run, its tokenizer, the sieve of its rows, and a directory for their files."""

    config: RunConfig
    tokenizer: Any
    sieve: Sieve
    directory: Path


class _Reading:
    """Makes tokens of the rows of one source, and knows how far it is."""

    def __init__(self, source: DataSource, files: Sequence[DataFile], workshop: Workshop, check: Check) -> None:
        self.reached = Reached(format=given_format(source))
        self.source = source.source
        self._columns = source.columns
        self._sieve = workshop.sieve
        self.limit = length_limit(workshop.config)
        self._preprocess: Callable[[Row], Row] = preprocessor(source)
        self._check = check
        self._encode: Encoder = encoder(workshop.tokenizer, workshop.config)
        self._as_turns = as_turns(workshop.config, workshop.tokenizer)
        self._is_templated = source.preprocessing is not None and source.preprocessing.template is not None
        self._checked_column = None if source.validation is None else source.validation.column
        self._first_rows = partial(_first_rows, files, source.max_samples)

    def kept(self, rows: Iterable[Row | Failure]) -> list[Encoded]:
        """Those of `rows` to train on, as tokens."""
        pairs = [pair for row in rows if (pair := self._example(row)) is not None]
        examples = []
        for (_, example), refusal in zip(pairs, self._check(pairs), strict=True):
            if refusal is None:
                turned = self._as_turns(example)
                self.reached.rendered += turned is not example
                examples.append(turned)
            else:
                self._reject(refusal, refused=True)
        try:
            encoded = _encoded(examples, self._encode, self._sieve)
        except Failure as failure:
            if failure.reason is Reason.CONFIG_INVALID and self.reached.rendered:
                raise Failure(failure.reason, f"{failure.message}; {WAY_OUT}") from failure
            raise
        return [row for row in encoded if self._is_kept(row)]

    def resume(self, reached: Reached, shard: Path) -> None:
        """Go on after a shard that an earlier process completed."""
        self.reached = reached
        self._sieve.resume(reached.left_out, read_digests(shard))

    def complete(self, shard: Path, *, at_end: bool) -> None:
        """Say that all rows so far are in shards, the last of them in `shard`."""
        self.reached.at_end = at_end
        self.reached.left_out = self._sieve.counts
        write_reached(shard, self.reached)

    def _example(self, row: Row | Failure) -> tuple[Row, Example] | None:
        reached = self.reached
        reached.rows += 1
        try:
            if isinstance(row, Failure):
                raise row
            made = self._preprocess(row)
            reached.format = reached.format or detect_format(made, self._columns)
            example = to_example(made, reached.format, self._columns)
        except Failure as failure:
            self._reject(failure)
            return None
        reached.usable += 1
        if reached.usable == 1 and not self._is_templated:
            _show_unread(unread_columns(made, reached.format, self._columns))
        return made, example

    def _reject(self, failure: Failure, *, refused: bool = False) -> None:
        """Leave a row out, unless what it lacks is missing from every row, which is no matter of rows.

        Raises:
            Failure: it may not be left out.
        """
        if isinstance(failure, UnfitColumnsError) and not self._sieve.counts.skipped:
            alike = [self._advice(row) == failure.advice for row in self._first_rows()]
            if all(alike):
                others = "" if len(alike) == 1 else " and every other row"
                others = f" and the {len(alike) - 1} rows after it" if len(alike) == _LOOKED_AT_ROWS else others
                problem = f"{failure.place}{others}: {failure.problem}; {failure.advice}"
                raise Failure(Reason.CONFIG_INVALID, problem)
        self._sieve.reject(failure, refused=refused)

    def _advice(self, row: Row | Failure) -> str | None:
        """What to change in the spec for a row that lacks a column; None if it lacks none."""
        if isinstance(row, Failure):
            return None
        try:
            made = self._preprocess(row)
            example = to_example(made, self.reached.format or detect_format(made, self._columns), self._columns)
            if self._checked_column is not None:
                deque(checked_texts(made, example, self._checked_column), maxlen=0)
        except UnfitColumnsError as error:
            return error.advice
        except Failure:
            return None
        return None

    def _is_kept(self, row: Encoded) -> bool:
        reached = self.reached
        if not _is_trained(row.labels[: self.limit]):
            reached.untrained += 1
            reached.first_untrained = reached.first_untrained or row.place
            return False
        if not self._sieve.keeps(row.input_ids):
            return False
        reached.truncated += self.limit is not None and len(row.input_ids) > self.limit
        reached.first_kept = reached.first_kept or row.place
        return True


def tokenize(source: DataSource, files: Sequence[DataFile], workshop: Workshop, name: str) -> Tokenized:
    """Read, check and tokenize the rows of `files`, at most the first that `source` allows, into the directory `name`.

    Shards that are complete there are taken as they are.

    Raises:
        Failure: a row can not be used, or no row has anything to train on.
    """
    import pyarrow as pa

    rows = islice(read_rows(files), source.max_samples)
    with checking(source.validation) as check:
        reading = _Reading(source, files, workshop, check)
        shards = list(_shards(reading, rows, workshop.directory / name))
    table, reached = pa.concat_tables([read_rows_of(shard) for shard in shards]), reading.reached
    if reached.format is None or not reached.usable:
        problem = workshop.sieve.counts.first_problem
        raise data_invalid(source.source, f"no row can be used; the first that can not: {problem}")
    if reached.first_untrained is not None and not table.num_rows:
        raise _nothing_to_train_on(reached.first_untrained, reading.limit)
    return Tokenized(
        source=source,
        table=table,
        format=reached.format,
        truncated=reached.truncated,
        untrained=reached.untrained,
        rendered=reached.rendered,
        example=_first(table, reached.first_kept),
    )


def _show_unread(columns: Sequence[str]) -> None:
    if columns:
        more = f" and {len(columns) - _MOST_SHOWN} more" if len(columns) > _MOST_SHOWN else ""
        logger.info("      columns that are not read: %s%s", ", ".join(map(repr, columns[:_MOST_SHOWN])), more)


def _first_rows(files: Sequence[DataFile], most: int | None) -> Iterator[Row | Failure]:
    return islice(read_rows(files), min(_LOOKED_AT_ROWS, most or _LOOKED_AT_ROWS))


def _shards(reading: _Reading, rows: Iterator[Row | Failure], directory: Path) -> Iterator[Path]:
    """The shards of a source, one after the other; what is told of a source that takes long is told in between."""
    started = told = monotonic()
    for number in count():
        shard = directory / f"{number:06}.arrow"
        complete = read_reached(shard)
        if complete is not None:
            reading.resume(complete, shard)
            if not complete.at_end:
                deque(islice(rows, SHARD_ROWS), maxlen=0)
        else:
            before = reading.reached.rows
            write_rows(shard, _batches(reading, islice(rows, SHARD_ROWS)), reading.limit)
            reading.complete(shard, at_end=reading.reached.rows - before < SHARD_ROWS)
        yield shard
        if reading.reached.at_end:
            return
        if (now := monotonic()) - told >= _REPORT_SECONDS:
            told = now
            logger.info("      %s: %s rows tokenized in %.0f s", reading.source, reading.reached.rows, now - started)


def _batches(reading: _Reading, rows: Iterator[Row | Failure]) -> Iterator[list[Encoded]]:
    for first in rows:
        yield reading.kept(chain([first], islice(rows, _BATCH_ROWS - 1)))


def _first(table: Any, place: str | None) -> Encoded | None:
    if place is None:
        return None
    (row,) = table.slice(0, 1).to_pylist()
    return Encoded(place, row["input_ids"], row["labels"])


def _nothing_to_train_on(place: str, limit: int | None) -> Failure:
    return data_invalid(
        f"{place} and every other row",
        "no token to train on in the row; check that the chat template marks what the assistant writes"
        if limit is None
        else f"no token to train on among the first {limit} of the row; "
        "raise training.maxLength, or check that the chat template marks what the assistant writes",
    )


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
