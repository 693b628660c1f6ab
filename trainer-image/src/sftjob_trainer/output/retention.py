"""What remains on the volume after a success with output.retain: Output."""

import shutil
from pathlib import Path
from typing import Final

from sftjob_contract import layout
from sftjob_contract.codec import ContractError, from_json, to_json
from sftjob_contract.reports.outcome import Outcome
from sftjob_trainer.process.atomic_files import write_atomically

_REMOVED: Final = (
    layout.CACHE,
    layout.CHECKPOINTS,
    layout.PREPARED_TRAIN,
    layout.PREPARED_EVALUATION,
    layout.PREPARED_SAMPLES,
)


def save_outcome(outcome: Outcome, volume: Path) -> None:
    """Save the outcome for any attempt that starts after the removal.

    It is stored among the prepared data, which Prepare deletes as a whole, so it never applies to another run.
    """
    write_atomically(volume / layout.PREPARED_OUTCOME, to_json(outcome))


def read_outcome(volume: Path) -> Outcome | None:
    """The saved outcome, if any."""
    try:
        return from_json(Outcome, (volume / layout.PREPARED_OUTCOME).read_bytes(), ignore_unknown=True)
    except (OSError, ContractError):
        return None


def keep_output(volume: Path) -> None:
    """Remove caches, data and checkpoints. A cache outside the volume is shared and stays."""
    for path in _REMOVED:
        shutil.rmtree(volume / path, ignore_errors=True)
