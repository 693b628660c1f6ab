"""What Prepare left on the volume for the stages after it."""

from pathlib import Path

from sftjob_contract import layout
from sftjob_contract.codec import ContractError, from_json
from sftjob_contract.reasons import Reason
from sftjob_contract.stats import PreparedStats
from sftjob_trainer.failure import Failure


def read_stats(volume: Path) -> PreparedStats:
    """What Prepare left on the volume.

    Raises:
        Failure: it did not, so there is nothing to train on.
    """
    path = volume / layout.PREPARED_STATS
    try:
        return from_json(PreparedStats, path.read_bytes(), ignore_unknown=True)
    except (OSError, ContractError) as error:
        raise Failure(
            Reason.INTERNAL_ERROR, f"the prepared data set can not be read, the Prepare stage must run first: {error}"
        ) from error
