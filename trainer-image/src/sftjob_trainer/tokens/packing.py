"""Convert tokenized rows to trainer input: tables on the volume, and sequences packed from them.

Rows are stored in memory-mapped Arrow files, so any number of them needs the memory of a few batches.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sftjob_contract.run.config import PackingStrategy, RunConfig
from sftjob_trainer.tokens.tokenizer import NOT_TRAINED


def write_table(path: Path, batches: Iterable[Any]) -> Any:
    """Write record batches of rows to an Arrow file and map it into memory as a `pyarrow.Table`."""
    import pyarrow as pa

    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema()) as writer:
        for batch in batches:
            if batch.num_rows:
                writer.write_batch(batch)
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def to_dataset(table: Any, config: RunConfig, scratch: Path) -> Any:
    """The rows of `table` as a `datasets.Dataset` of sequences: the rows themselves, or packed by TRL.

    Packed sequences are stored in the file `scratch` until the dataset is saved.
    """
    from datasets import Dataset

    # Without an explicit fingerprint, datasets would hash the whole table; it caches nothing here.
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
    """Maximum tokens of a row before it is cut; None if packing continues with the rest in another sequence."""
    training = config.training
    goes_on = training.packing_strategy in (PackingStrategy.BFD_SPLIT, PackingStrategy.WRAPPED)
    return None if training.packing and goes_on else training.max_length


def count_tokens(table: Any) -> int:
    """Tokens in `table`."""
    from pyarrow import compute

    return int(compute.sum(compute.list_value_length(table["input_ids"])).as_py() or 0)


def count_trained_tokens(table: Any) -> int:
    """Tokens in `table` that have a label."""
    from pyarrow import compute

    return int(compute.sum(compute.not_equal(compute.list_flatten(table["labels"]), NOT_TRAINED)).as_py() or 0)


def largest_token(table: Any) -> int:
    """The highest token id in `table`; 0 if the table is empty."""
    from pyarrow import compute

    return int(compute.max(compute.list_flatten(table["input_ids"])).as_py() or 0)


def schema() -> Any:
    """Columns of a table of rows: token ids and labels."""
    import pyarrow as pa

    kind = pa.list_(pa.int32())
    return pa.schema({"input_ids": kind, "labels": kind})
