"""The data of a run: source files, tokenized rows, and the split into training and evaluation data."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import RunConfig
from sftjob_trainer.process.environment import Environment
from sftjob_trainer.process.errors import StageError, data_invalid
from sftjob_trainer.rows.filters import RowFilter
from sftjob_trainer.rows.mixture import repeated_rows, row_repeats
from sftjob_trainer.rows.preprocessing import code_fingerprint
from sftjob_trainer.sources.files import SourceFiles, fingerprint
from sftjob_trainer.sources.resolve import DataPart, evaluation_parts, resolve_part, training_parts
from sftjob_trainer.tokens.packing import write_table
from sftjob_trainer.tokens.tokenize import TokenizeContext, Tokenized, tokenize


@dataclass(frozen=True, kw_only=True)
class DataFiles:
    """The files of each part of the data; no evaluation files if rows are held out of the training data.

    `code`: fingerprint of the row preprocessing functions; None without any.
    """

    train: tuple[tuple[DataPart, SourceFiles], ...]
    evaluation: tuple[tuple[DataPart, SourceFiles], ...]
    code: str | None

    @property
    def unread(self) -> int:
        """Number of files at the sources that are not read for any part of the data."""
        unread: dict[str, set[str]] = {}
        for part, found in (*self.train, *self.evaluation):
            names = set(found.names.unread)
            unread[part.source.source] = unread.get(part.source.source, names) & names
        return sum(map(len, unread.values()))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the names and contents of all files, and over the code."""
        files = fingerprint(file for _, found in (*self.train, *self.evaluation) for file in found.files)
        return files if self.code is None else hashlib.sha256(f"{files}\n{self.code}".encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class TokenizedData:
    """The tokenized data: its sources as read, and the rows of both parts as `pyarrow.Table`.

    `train` contains each row as often as an epoch uses it. Without `evaluation`, nothing is held out. `row_filter`
    counted the rows removed from both.
    """

    trained: tuple[Tokenized, ...]
    evaluated: tuple[Tokenized, ...]
    train: Any
    evaluation: Any | None
    row_filter: RowFilter
    fingerprint: str
    code_fingerprint: str | None
    passed_over_files: int

    @property
    def read(self) -> tuple[Tokenized, ...]:
        """All sources, training sources first."""
        return (*self.trained, *self.evaluated)


def find_files(config: RunConfig, environment: Environment) -> DataFiles:
    """The files of the data, downloaded if they are remote.

    Raises:
        StageError: a source is not available.
    """

    def found(parts: Iterable[DataPart]) -> tuple[tuple[DataPart, SourceFiles], ...]:
        return tuple((part, resolve_part(part, config, environment)) for part in parts)

    return DataFiles(
        train=found(training_parts(config)),
        evaluation=found(evaluation_parts(config)),
        code=code_fingerprint(config.dataset.sources),
    )


def load_data(files: DataFiles, context: TokenizeContext) -> TokenizedData:
    """Read, check, tokenize and split the rows of all sources.

    Evaluation data is read first: with dataset.deduplicate, training rows that also occur in it are removed.

    Raises:
        StageError: a row is unusable, or no rows are left.
    """
    evaluated = tuple(
        tokenize(part.source, found.files, context, f"evaluation-{number}")
        for number, (part, found) in enumerate(files.evaluation)
    )
    trained = tuple(
        tokenize(part.source, found.files, context, f"train-{number}")
        for number, (part, found) in enumerate(files.train)
    )
    for name, parts in (("dataset", trained), ("dataset.evaluation", evaluated)):
        if parts and not sum(part.table.num_rows for part in parts):
            raise data_invalid(name, f"no row is left: {', '.join(context.row_filter.describe_removed())}")
    data = TokenizedData(
        trained=trained,
        evaluated=evaluated,
        train=None,
        evaluation=_concatenate(evaluated),
        row_filter=context.row_filter,
        fingerprint=files.fingerprint,
        code_fingerprint=files.code,
        passed_over_files=files.unread,
    )
    return _split_data(data, context)


def _split_data(data: TokenizedData, context: TokenizeContext) -> TokenizedData:
    """`data` with its training rows and the rows held out of them."""
    dataset = context.config.dataset
    fraction = dataset.evaluation.fraction or 0.0
    sizes, weights = [part.table.num_rows for part in data.trained], [part.source.weight for part in data.trained]
    chosen = row_repeats(sizes, weights, fraction, dataset.shuffle_seed)
    if not any(source.train.any() for source in chosen):
        raise StageError(
            Reason.DATA_INVALID,
            f"{', '.join(part.source.source for part in data.trained)} has {sum(sizes)} usable row(s), too few to hold "
            f"out {fraction:g} of them; add rows, or set dataset.evaluation.fraction: 0",
        )
    if all((source.train == 1).all() for source in chosen):
        return replace(data, train=_concatenate(data.trained))
    tables = [part.table for part in data.trained]
    train = write_table(context.directory / "train.arrow", _rows(tables, [source.train for source in chosen]))
    if fraction == 0:
        return replace(data, train=train)
    rows = _rows(tables, [source.evaluation for source in chosen])
    held_out = write_table(context.directory / "evaluation.arrow", rows)
    return replace(data, train=train, evaluation=held_out)


def _rows(tables: Sequence[Any], counts: Sequence[Any]) -> Iterable[Any]:
    for table, count in zip(tables, counts, strict=True):
        yield from repeated_rows(table, count)


def _concatenate(parts: Sequence[Tokenized]) -> Any | None:
    import pyarrow as pa

    return pa.concat_tables([part.table for part in parts]) if parts else None
