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
"""The reasons that a trainer can give. The others (Killed, PodLost) are the operator's to conclude."""


_LEAVE_OUT: Final = "dataset.onInvalidRow: Skip leaves such rows out"


class Failure(Exception):  # noqa: N818 -- a verdict about the run, not a defect of this program
    """Ends the stage. `message` is one sentence for the user: what is wrong, where, and what to write instead.

    `blames_peer` and `fault` as in Outcome. `is_of_a_row`: the data without that row could be trained on.

    Raises:
        KeyError: `reason` is not one that a trainer can give.
    """

    def __init__(self, reason: Reason, message: str, *, blames_peer: bool = False, fault: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.blames_peer = blames_peer
        self.fault = fault
        self.exit_code = _EXIT_CODES[reason]
        self.is_of_a_row = False

    @property
    def told(self) -> str:
        """The message, and for a row how to leave it out."""
        return f"{self.message}; {_LEAVE_OUT}" if self.is_of_a_row else self.message


class UnfitColumnsError(Failure):
    """A row does not have the columns that the spec names; `advice` is a clause that says which field names them.

    Where no row has them the data is as it is, and the spec is to be changed.
    """

    def __init__(self, place: str, problem: str, advice: str) -> None:
        super().__init__(Reason.DATA_INVALID, f"{place}: {problem}")
        self.place = place
        self.problem = problem
        self.advice = advice


def data_invalid(place: str, problem: str) -> Failure:
    """The verdict on data that can not be used: where it lies and what is wrong there."""
    return Failure(Reason.DATA_INVALID, f"{place}: {problem}")
