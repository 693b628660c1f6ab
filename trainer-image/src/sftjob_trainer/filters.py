"""Which rows are left out, and how many: unusable ones, too short or too long ones, and those seen before."""

import logging
from array import array
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Final

from sftjob_contract.config import Dataset, OnInvalidRow
from sftjob_trainer.failure import Failure, data_invalid

logger = logging.getLogger(__name__)

_TOLD: Final = 5
"""Unusable rows that are told one by one."""
_DIGEST_BYTES: Final = 16


class Sieve:
    """One for all the rows of a run; counts what it leaves out.

    `skipped` rows can not be used, `filtered` ones have too few or too many tokens, `duplicates` have the tokens of an
    earlier one. Of each row that stays, a digest is remembered if duplicates are to go.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.skipped = 0
        self.filtered = 0
        self.duplicates = 0
        self.first_problem = ""
        self._dataset = dataset
        self._seen: set[bytes] = set()

    def reject(self, failure: Failure) -> None:
        """Leave out a row that can not be used, or end the run, as dataset.onInvalidRow says.

        Raises:
            Failure: no row may be left out, or no more.
        """
        if self._dataset.on_invalid_row is OnInvalidRow.FAIL:
            raise failure
        self.skipped += 1
        self.first_problem = self.first_problem or failure.message
        limit = self._dataset.max_invalid_rows
        if self.skipped > limit:
            raise data_invalid(
                failure.message.rstrip("."),
                f"more rows can not be used than the {limit} of dataset.maxInvalidRows; the first was "
                f"{self.first_problem}",
            )
        if self.skipped <= _TOLD:
            logger.info("      left out: %s", failure.message)

    def keeps(self, input_ids: Sequence[int]) -> bool:
        """Whether a row of these tokens stays."""
        least, most = self._dataset.min_tokens, self._dataset.max_tokens
        if (least is not None and len(input_ids) < least) or (most is not None and len(input_ids) > most):
            self.filtered += 1
            return False
        if not self._dataset.deduplicate:
            return True
        digest = blake2b(array("q", input_ids).tobytes(), digest_size=_DIGEST_BYTES).digest()
        if digest in self._seen:
            self.duplicates += 1
            return False
        self._seen.add(digest)
        return True

    def left_out(self) -> Iterator[str]:
        """What was left out, one clause for each reason."""
        for count, why in (
            (self.skipped, "can not be used"),
            (self.filtered, "have fewer tokens than dataset.minTokens or more than dataset.maxTokens"),
            (self.duplicates, "are equal to an earlier one (dataset.deduplicate)"),
        ):
            if count:
                yield f"{count} rows {why}"
