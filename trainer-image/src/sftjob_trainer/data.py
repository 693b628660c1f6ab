"""The data of a run: its sources as files, tokenized, split into what is trained on and what is evaluated on."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from sftjob_contract.config import RunConfig
from sftjob_contract.reasons import Reason
from sftjob_trainer.environment import Environment
from sftjob_trainer.failure import Failure, data_invalid
from sftjob_trainer.files import Found, fingerprint
from sftjob_trainer.filters import Sieve
from sftjob_trainer.mixture import used, uses
from sftjob_trainer.preprocessing import code_fingerprint
from sftjob_trainer.sequences import write_table
from sftjob_trainer.sources import Part, evaluation_parts, resolve_part, training_parts
from sftjob_trainer.tokenizing import Tokenized, Workshop, tokenize


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of each part of the data; none to evaluate on when rows to train on are held out.

    `code`: fingerprint of the functions that preprocess rows, None where there are none.
    """

    train: tuple[tuple[Part, Found], ...]
    evaluation: tuple[tuple[Part, Found], ...]
    code: str | None

    @property
    def passed_over(self) -> int:
        """How many files at the sources are not read for any part of the data."""
        unread: dict[str, set[str]] = {}
        for part, found in (*self.train, *self.evaluation):
            names = set(found.names.passed_over)
            unread[part.source.source] = unread.get(part.source.source, names) & names
        return sum(map(len, unread.values()))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over names and contents of all of them, and over the code."""
        files = fingerprint(file for _, found in (*self.train, *self.evaluation) for file in found.files)
        return files if self.code is None else hashlib.sha256(f"{files}\n{self.code}".encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Data:
    """The tokenized data: its sources as read, and the rows of both parts as `pyarrow.Table`.

    `train` holds each row as often as an epoch uses it; no `evaluation`: nothing is held out. `sieve` counted what was
    left out of both.
    """

    trained: tuple[Tokenized, ...]
    evaluated: tuple[Tokenized, ...]
    train: Any
    evaluation: Any | None
    sieve: Sieve
    fingerprint: str
    code_fingerprint: str | None
    passed_over_files: int

    @property
    def read(self) -> tuple[Tokenized, ...]:
        """All sources, those to train on first."""
        return (*self.trained, *self.evaluated)


def find_files(config: RunConfig, environment: Environment) -> Files:
    """The files of the data, downloaded if they lie elsewhere.

    Raises:
        Failure: a source can not be had.
    """

    def found(parts: Iterable[Part]) -> tuple[tuple[Part, Found], ...]:
        return tuple((part, resolve_part(part, config, environment)) for part in parts)

    return Files(
        train=found(training_parts(config)),
        evaluation=found(evaluation_parts(config)),
        code=code_fingerprint(config.dataset.sources),
    )


def load_data(files: Files, workshop: Workshop) -> Data:
    """Read, check and tokenize the rows of all sources, and part them.

    What is evaluated on is read first: with dataset.deduplicate, rows to train on that are among it are left out.

    Raises:
        Failure: a row can not be used, or none is left.
    """
    evaluated = tuple(
        tokenize(part.source, found.files, workshop, f"evaluation-{number}")
        for number, (part, found) in enumerate(files.evaluation)
    )
    trained = tuple(
        tokenize(part.source, found.files, workshop, f"train-{number}")
        for number, (part, found) in enumerate(files.train)
    )
    for name, parts in (("dataset", trained), ("dataset.evaluation", evaluated)):
        if parts and not sum(part.table.num_rows for part in parts):
            raise data_invalid(name, f"no row is left: {', '.join(workshop.sieve.left_out())}")
    data = Data(
        trained=trained,
        evaluated=evaluated,
        train=None,
        evaluation=_joined(evaluated),
        sieve=workshop.sieve,
        fingerprint=files.fingerprint,
        code_fingerprint=files.code,
        passed_over_files=files.passed_over,
    )
    return _parted(data, workshop)


def _parted(data: Data, workshop: Workshop) -> Data:
    """`data` with the rows to train on, and with those that are held out of them."""
    dataset = workshop.config.dataset
    fraction = dataset.evaluation.fraction or 0.0
    sizes, weights = [part.table.num_rows for part in data.trained], [part.source.weight for part in data.trained]
    chosen = uses(sizes, weights, fraction, dataset.shuffle_seed)
    if not any(source.train.any() for source in chosen):
        raise Failure(
            Reason.DATA_INVALID,
            f"{', '.join(part.source.source for part in data.trained)} has {sum(sizes)} usable row(s), too few to hold "
            f"out {fraction:g} of them; add rows, or set dataset.evaluation.fraction: 0",
        )
    if all((source.train == 1).all() for source in chosen):
        return replace(data, train=_joined(data.trained))
    tables = [part.table for part in data.trained]
    train = write_table(workshop.directory / "train.arrow", _rows(tables, [source.train for source in chosen]))
    if fraction == 0:
        return replace(data, train=train)
    rows = _rows(tables, [source.evaluation for source in chosen])
    held_out = write_table(workshop.directory / "evaluation.arrow", rows)
    return replace(data, train=train, evaluation=held_out)


def _rows(tables: Sequence[Any], counts: Sequence[Any]) -> Iterable[Any]:
    for table, count in zip(tables, counts, strict=True):
        yield from used(table, count)


def _joined(parts: Sequence[Tokenized]) -> Any | None:
    import pyarrow as pa

    return pa.concat_tables([part.table for part in parts]) if parts else None
