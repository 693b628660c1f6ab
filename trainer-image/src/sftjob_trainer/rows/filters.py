"""Row filters and their counts: unusable rows, rows that are too short or too long, and duplicates."""

import logging
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Final

from sftjob_contract.run.config import Dataset, OnInvalidRow
from sftjob_trainer.process.errors import StageError, data_invalid

logger = logging.getLogger(__name__)

_MAX_LOGGED: Final = 5
"""Unusable rows that are logged individually."""
_DIGEST_BYTES: Final = 16


@dataclass(frozen=True, kw_only=True)
class FilterCounts:
    """Numbers of rows left out.

    `skipped` rows are unusable; of these, `refused` rows fail dataset.validation. `filtered` rows have too few or too
    many tokens. `duplicates` have the tokens of an earlier row.
    """

    skipped: int = 0
    refused: int = 0
    filtered: int = 0
    duplicates: int = 0
    first_problem: str = ""


class RowFilter:
    """Filters all rows of a run and counts those it leaves out.

    For deduplication, it stores a digest of each row that is kept.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.counts = FilterCounts()
        self._dataset = dataset
        self._seen: set[bytes] = set()

    def reject(self, failure: StageError, *, refused: bool = False) -> None:
        """Leave out an unusable row, or end the run, depending on dataset.onInvalidRow.

        `refused`: the row is usable but fails dataset.validation.

        Raises:
            StageError: no row may be left out, or the limit is reached.
        """
        if self._dataset.on_invalid_row is OnInvalidRow.FAIL:
            failure.is_row_error = True
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
                f"more rows cannot be used than the {limit} of dataset.maxInvalidRows; the first was "
                f"{self.counts.first_problem}",
            )
        if self.counts.skipped <= _MAX_LOGGED:
            logger.info("      left out: %s", failure.message)

    def keeps(self, input_ids: Sequence[int]) -> bool:
        """Whether a row with these tokens is kept."""
        minimum, maximum = self._dataset.min_tokens, self._dataset.max_tokens
        if (minimum is not None and len(input_ids) < minimum) or (maximum is not None and len(input_ids) > maximum):
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

    def resume(self, counts: FilterCounts, digests: Iterable[bytes]) -> None:
        """Continue from an earlier process, with its counts and the digests of the rows kept since the last call."""
        self.counts = counts
        self._seen.update(digests)

    def describe_removed(self) -> Iterator[str]:
        """What was left out, one clause per reason."""
        for count, reason in (
            (self.counts.skipped - self.counts.refused, "cannot be used"),
            (self.counts.refused, "do not pass dataset.validation"),
            (self.counts.filtered, "have fewer tokens than dataset.minTokens or more than dataset.maxTokens"),
            (self.counts.duplicates, "are equal to an earlier one (dataset.deduplicate)"),
        ):
            if count:
                yield f"{count} rows {reason}"


def digest(input_ids: Sequence[int]) -> bytes:
    """A digest that is equal for rows with the same tokens."""
    return blake2b(array("q", input_ids).tobytes(), digest_size=_DIGEST_BYTES).digest()
