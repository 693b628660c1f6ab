"""Tokenized rows of a source in shards, each complete or absent, so that an interrupted stage can continue."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sftjob_contract.codec import ContractError, from_json, to_json
from sftjob_contract.run.config import DataFormat
from sftjob_trainer.process.atomic_files import write_atomically
from sftjob_trainer.rows.filters import FilterCounts, digest
from sftjob_trainer.tokens.packing import schema
from sftjob_trainer.tokens.tokenizer import Encoded

_DIGEST: Final = "digest"


@dataclass(kw_only=True)
class ShardProgress:
    """Progress of a source after a complete shard. Counts start at its first row, `left_out` at the run's.

    `rows` were read, `usable` of them were examples of `format`, `rendered` as turns. `first_kept` and
    `first_untrained` are locations of rows. `at_end`: no rows follow.
    """

    rows: int = 0
    usable: int = 0
    truncated: int = 0
    untrained: int = 0
    rendered: int = 0
    format: DataFormat | None = None
    first_kept: str | None = None
    first_untrained: str | None = None
    at_end: bool = False
    left_out: FilterCounts = field(default_factory=FilterCounts)


def read_progress(shard: Path) -> ShardProgress | None:
    """The record of a complete shard; None if it is not complete."""
    try:
        return from_json(ShardProgress, _sidecar(shard).read_bytes(), ignore_unknown=False)
    except (OSError, ContractError):
        return None


def write_progress(shard: Path, progress: ShardProgress) -> None:
    """Mark a shard as complete, once its rows are on disk."""
    with shard.open("rb") as stream:
        os.fsync(stream.fileno())
    write_atomically(_sidecar(shard), to_json(progress))


def write_rows(shard: Path, batches: Iterable[list[Encoded]], limit: int | None) -> None:
    """Write rows, cut at `limit` tokens, each with a digest of all its tokens."""
    import pyarrow as pa

    fields = schema().append(pa.field(_DIGEST, pa.binary()))
    shard.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(shard), "wb") as sink, pa.ipc.new_file(sink, fields) as writer:
        for rows in batches:
            columns = [
                [row.input_ids[:limit] for row in rows],
                [row.labels[:limit] for row in rows],
                [digest(row.input_ids) for row in rows],
            ]
            if rows:
                writer.write_batch(pa.record_batch(columns, schema=fields))


def read_rows_of(shard: Path) -> Any:
    """The rows of a shard as a `pyarrow.Table`, mapped into memory."""
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(str(shard))).read_all().select(schema().names)


def read_digests(shard: Path) -> list[bytes]:
    """The digests of the rows of a shard."""
    import pyarrow as pa

    digests: list[bytes] = pa.ipc.open_file(pa.memory_map(str(shard))).read_all()[_DIGEST].to_pylist()
    return digests


def _sidecar(shard: Path) -> Path:
    return shard.with_suffix(".json")
