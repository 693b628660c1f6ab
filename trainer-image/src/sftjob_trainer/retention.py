"""What stays on the volume after a success with output.retain: Output."""

import shutil
from pathlib import Path
from typing import Final

from sftjob_contract import layout
from sftjob_contract.codec import ContractError, from_json, to_json
from sftjob_contract.outcome import Outcome
from sftjob_trainer.durable import write_atomically

_DISPENSABLE: Final = (
    *(layout.CACHE, layout.CHECKPOINTS),
    *(layout.PREPARED_TRAIN, layout.PREPARED_EVALUATION, layout.PREPARED_SAMPLES),
)


def remember(outcome: Outcome, volume: Path) -> None:
    """Leave the outcome where an attempt that comes after the removal, for whatever reason, finds it.

    It lies among the prepared data, which Prepare deletes whole, so it never speaks for another run.
    """
    write_atomically(volume / layout.PREPARED_OUTCOME, to_json(outcome))


def ended_before(volume: Path) -> Outcome | None:
    """The outcome that was remembered, if any."""
    try:
        return from_json(Outcome, (volume / layout.PREPARED_OUTCOME).read_bytes(), ignore_unknown=True)
    except (OSError, ContractError):
        return None


def keep_output(volume: Path) -> None:
    """Remove caches, data and checkpoints. A cache that lies elsewhere is shared and stays."""
    for path in _DISPENSABLE:
        shutil.rmtree(volume / path, ignore_errors=True)
