"""The judge of the chaos: which ends fit what was done to an attempt."""

from typing import Any

import pytest

from chaos.chaos import wrong_ends
from chaos.mischief import Done
from sftjob_contract.reasons import Reason

KILLED = Done("kill trainer", 1, frozenset({Reason.KILLED}))
PREEMPTED = Done("preempt", 1, frozenset({Reason.PREEMPTED}))
EVICTED = Done("evict", 1, frozenset({Reason.EVICTED}))
NODE_LOST = Done("lose node", 1, frozenset({Reason.NODE_LOST}))
NO_OPERATOR = Done("kill operator", 1, frozenset())


def attempts(reason: str, *, code: int | None = None, reached: int = 12, begins: int = 12) -> list[dict[str, Any]]:
    """An attempt that ended for `reason` at step `reached`, and one that went on at step `begins`, to the end."""
    first = {"number": 1, "reason": reason, "reachedStep": reached} | ({} if code is None else {"exitCode": code})
    return [first, {"number": 2, "reason": "Completed", "exitCode": 0, "fromStep": begins, "reachedStep": 60}]


@pytest.mark.parametrize(
    ("done", "seen"),
    [
        ((KILLED,), attempts(Reason.KILLED, code=137, begins=10)),
        ((PREEMPTED,), attempts(Reason.PREEMPTED, code=75)),
        ((NODE_LOST,), attempts(Reason.NODE_LOST, begins=10)),
        ((NO_OPERATOR, EVICTED), attempts(Reason.POD_LOST)),
        ((PREEMPTED, KILLED), attempts(Reason.PREEMPTED, code=137, begins=10)),
        ((PREEMPTED, KILLED), attempts(Reason.POD_LOST, begins=10)),
        ((KILLED,), attempts("Completed", code=0)),
        ((NO_OPERATOR,), attempts("Completed", code=0)),
    ],
)
def test_an_end_fits_what_was_done(done: tuple[Done, ...], seen: list[dict[str, Any]]) -> None:
    assert wrong_ends(seen, done, blind=False, disk_full=False) == []


@pytest.mark.parametrize(
    ("done", "seen", "wrong"),
    [
        ((), attempts(Reason.KILLED, code=137), "(nothing was done to it) ended with Killed"),
        ((NO_OPERATOR,), attempts(Reason.KILLED, code=137), "(kill operator) ended with Killed"),
        ((NO_OPERATOR, KILLED), attempts(Reason.POD_LOST), "ended with PodLost"),
        ((PREEMPTED,), attempts(Reason.EVICTED, code=75), "(preempt) ended with Evicted"),
        ((PREEMPTED,), attempts(Reason.POD_LOST), "ended with PodLost"),
        ((NODE_LOST,), attempts(Reason.POD_LOST), "(lose node) ended with PodLost"),
        ((KILLED,), attempts(Reason.DISK_FULL, code=70), "ended with DiskFull"),
        ((PREEMPTED,), attempts(Reason.PREEMPTED, code=137), "with exit code 137, though it had the time to save"),
        ((EVICTED,), attempts(Reason.EVICTED, code=75, begins=10), "lost 2 steps, though it had the time to save"),
    ],
)
def test_an_end_that_does_not_fit_is_told(done: tuple[Done, ...], seen: list[dict[str, Any]], wrong: str) -> None:
    (told,) = wrong_ends(seen, done, blind=False, disk_full=False)
    assert told.startswith("attempt 1 ")
    assert wrong in told


def test_an_operator_that_may_have_seen_nothing_may_say_that_the_pod_is_lost() -> None:
    assert wrong_ends(attempts(Reason.POD_LOST), [PREEMPTED], blind=True, disk_full=False) == []
    assert wrong_ends(attempts(Reason.POD_LOST), [KILLED], blind=True, disk_full=False) != []


def test_where_the_disk_is_full_that_is_a_good_reason() -> None:
    assert wrong_ends(attempts(Reason.DISK_FULL, code=70), [], blind=False, disk_full=True) == []
