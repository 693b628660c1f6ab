"""Failures with a verdict: the one exception type that says why a stage ended and what the operator should do."""

from typing import Final

from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.reasons import Reason

_EXIT_CODES: Final = {
    Reason.DATA_INVALID: ExitCode.INVALID,
    Reason.CONFIG_INVALID: ExitCode.INVALID,
    Reason.MODEL_NOT_FOUND: ExitCode.NOT_FOUND,
    Reason.DATASET_NOT_FOUND: ExitCode.NOT_FOUND,
    Reason.ACCESS_DENIED: ExitCode.NOT_FOUND,
    Reason.UNREACHABLE: ExitCode.INTERNAL,
    Reason.INTERRUPTED: ExitCode.RETRY,
    Reason.GPU_OUT_OF_MEMORY: ExitCode.GPU_OUT_OF_MEMORY,
    Reason.DIVERGED: ExitCode.DIVERGED,
    Reason.HOST_OUT_OF_MEMORY: ExitCode.INTERNAL,
    Reason.DISK_FULL: ExitCode.INTERNAL,
    Reason.HUNG: ExitCode.INTERNAL,
    Reason.GPU_UNAVAILABLE: ExitCode.INTERNAL,
    Reason.INTERNAL_ERROR: ExitCode.INTERNAL,
}
"""The reasons that a trainer can give. The operator determines the others (Killed, PodLost)."""


_SKIP_ADVICE: Final = "dataset.onInvalidRow: Skip leaves such rows out"


class StageError(Exception):
    """Ends the stage. `message` is one sentence for the user: what is wrong, where, and what to write instead.

    `blames_peer` and `fault` as in Outcome. `is_row_error`: the run could continue without that row.

    Raises:
        KeyError: a trainer cannot give `reason`.
    """

    def __init__(self, reason: Reason, message: str, *, blames_peer: bool = False, fault: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.blames_peer = blames_peer
        self.fault = fault
        self.exit_code = _EXIT_CODES[reason]
        self.is_row_error = False

    @property
    def full_message(self) -> str:
        """The message, and for a row how to skip it."""
        return f"{self.message}; {_SKIP_ADVICE}" if self.is_row_error else self.message


class ColumnMismatchError(StageError):
    """A row lacks the columns that the spec names; `advice` is a clause with the field that names them.

    If no row has them, the spec has to change, not the data.
    """

    def __init__(self, location: str, problem: str, advice: str) -> None:
        super().__init__(Reason.DATA_INVALID, f"{location}: {problem}")
        self.location = location
        self.problem = problem
        self.advice = advice


def data_invalid(location: str, problem: str) -> StageError:
    """The StageError for unusable data: its location and the problem there."""
    return StageError(Reason.DATA_INVALID, f"{location}: {problem}")
