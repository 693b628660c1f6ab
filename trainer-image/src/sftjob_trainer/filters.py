"""Which rows are left out, and how many: unusable ones, too short or too long ones, and those seen before."""

import logging
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Final

from sftjob_contract.config import Dataset, OnInvalidRow
from sftjob_trainer.failure import Failure, data_invalid

logger = logging.getLogger(__name__)

_TOLD: Final = 5
"""Unusable rows that are told one by one."""
_DIGEST_BYTES: Final = 16


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many rows were left out.

    `skipped` can not be used, `refused` of them since they do not pass dataset.validation; `filtered` have too few or
    too many tokens, `duplicates` have the tokens of an earlier one.
    """

    skipped: int = 0
    refused: int = 0
    filtered: int = 0
    duplicates: int = 0
    first_problem: str = ""


class Sieve:
    """One for all the rows of a run; counts what it leaves out.

    Of each row that stays, a digest is remembered if duplicates are to go.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.counts = Counts()
        self._dataset = dataset
        self._seen: set[bytes] = set()

    def reject(self, failure: Failure, *, refused: bool = False) -> None:
        """Leave out a row that can not be used, or end the run, as dataset.onInvalidRow says.

        `refused`: it could be used, but does not pass dataset.validation.

        Raises:
            Failure: no row may be left out, or no more.
        """
        if self._dataset.on_invalid_row is OnInvalidRow.FAIL:
            failure.is_of_a_row = True
            raise failure
        before = self.counts
        self.counts = replace(
            before,
            skipped=before.skipped + 1,
            refused=before.refused + refused,
            first_problem=before.first_problem or failure.message,
        )
        limit = self._dataset.max_invalid_rows
        if self.counts.skipped > limit:
            raise data_invalid(
                failure.message.rstrip("."),
                f"more rows can not be used than the {limit} of dataset.maxInvalidRows; the first was "
                f"{self.counts.first_problem}",
            )
        if self.counts.skipped <= _TOLD:
            logger.info("      left out: %s", failure.message)

    def keeps(self, input_ids: Sequence[int]) -> bool:
        """Whether a row of these tokens stays."""
        least, most = self._dataset.min_tokens, self._dataset.max_tokens
        if (least is not None and len(input_ids) < least) or (most is not None and len(input_ids) > most):
            self.counts = replace(self.counts, filtered=self.counts.filtered + 1)
            return False
        if not self._dataset.deduplicate:
            return True
        found = digest(input_ids)
        if found in self._seen:
            self.counts = replace(self.counts, duplicates=self.counts.duplicates + 1)
            return False
        self._seen.add(found)
        return True

    def resume(self, counts: Counts, digests: Iterable[bytes]) -> None:
        """Go on where an earlier process was: its counts, and the digests of the rows that it kept since the last."""
        self.counts = counts
        self._seen.update(digests)

    def left_out(self) -> Iterator[str]:
        """What was left out, one clause for each reason."""
        for count, why in (
            (self.counts.skipped - self.counts.refused, "can not be used"),
            (self.counts.refused, "do not pass dataset.validation"),
            (self.counts.filtered, "have fewer tokens than dataset.minTokens or more than dataset.maxTokens"),
            (self.counts.duplicates, "are equal to an earlier one (dataset.deduplicate)"),
        ):
            if count:
                yield f"{count} rows {why}"


def digest(input_ids: Sequence[int]) -> bytes:
    """What rows of the same tokens have in common."""
    return blake2b(array("q", input_ids).tobytes(), digest_size=_DIGEST_BYTES).digest()
