"""The results of Prepare on the volume, for the stages after it."""

from pathlib import Path

from sftjob_contract import layout
from sftjob_contract.codec import ContractError, from_json
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.stats import PreparedStats
from sftjob_trainer.process.errors import StageError


def read_stats(volume: Path) -> PreparedStats:
    """Read the statistics that Prepare wrote to the volume.

    Raises:
        StageError: there are none, so there is nothing to train on.
    """
    path = volume / layout.PREPARED_STATS
    try:
        return from_json(PreparedStats, path.read_bytes(), ignore_unknown=True)
    except (OSError, ContractError) as error:
        raise StageError(
            Reason.INTERNAL_ERROR, f"the prepared dataset cannot be read, the Prepare stage must run first: {error}"
        ) from error
