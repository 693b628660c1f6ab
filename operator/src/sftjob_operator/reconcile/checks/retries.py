"""Whether another attempt may follow one that ended, and when."""

import hashlib
from itertools import takewhile
from typing import Final

from sftjob_contract.reasons import Reason
from sftjob_operator.api import AttemptStatus, ConditionReason
from sftjob_operator.reconcile.attempts.failure_reasons import STOPPED, Retry
from sftjob_operator.reconcile.attempts.ledger import failures, is_interruption, retry_after
from sftjob_operator.reconcile.snapshot import Snapshot

LONGEST_BACKOFF_SECONDS: Final = 600
LEAST_BACKOFF_SECONDS: Final = 1
"""Minimum base of the doubling from the second wait on, so that a crash loop does not spin, even with
failurePolicy.backoffSeconds: 0. An end is known to the second, so a wait may be shorter by that much."""
JITTER: Final = 0.25
"""Fraction by which a wait may be shorter, so that jobs that failed together do not retry together."""
_MOST_DOUBLINGS: Final = 32


def may_retry(snapshot: Snapshot, last: AttemptStatus) -> bool:
    """Whether another attempt may follow `last`, which failed."""
    if last.reason in STOPPED:
        return True
    policy = snapshot.job.spec.failure_policy
    match retry_after(last, snapshot.attempts):
        case Retry.FREE:
            return not _has_no_gpu(snapshot, last) and snapshot.interruptions <= policy.max_interruptions
        case Retry.ADJUSTED:
            return any(adjustment.attempt == last.number + 1 for adjustment in snapshot.adjustments)
        case Retry.COUNTED:
            return (
                not _repeats_failure(snapshot, last) and failures(snapshot.attempts, last.stage) <= policy.max_retries
            )
        case _:
            return False


def exhausted(snapshot: Snapshot, last: AttemptStatus) -> str | None:
    """Return the exhausted budget that prevents an attempt after `last`, as a condition's reason; None: none is."""
    retry = retry_after(last, snapshot.attempts)
    if retry is Retry.FREE and not _has_no_gpu(snapshot, last) and snapshot.interruptions > 1:
        return ConditionReason.INTERRUPTIONS_EXHAUSTED
    if retry is Retry.COUNTED and not _repeats_failure(snapshot, last) and failures(snapshot.attempts, last.stage) > 1:
        return ConditionReason.RETRIES_EXHAUSTED
    return None


def backoff_seconds(snapshot: Snapshot, last: AttemptStatus) -> float:
    """Return the wait between the end of `last` and the next attempt.

    It doubles with every failure of the stage, up to ten minutes; only the first one may be 0. After an interruption
    the next attempt starts at once, unless the previous one was interrupted as well and neither made progress.
    """
    retry = retry_after(last, snapshot.attempts)
    if last.reason in STOPPED or retry is Retry.ADJUSTED:
        return 0.0
    doublings = (
        _interruptions_without_progress(snapshot, last) - 2
        if retry is Retry.FREE
        else failures(snapshot.attempts, last.stage) - 1
    )
    if doublings < 0:
        return 0.0
    base = snapshot.job.spec.failure_policy.backoff_seconds
    if doublings > 0:
        base = max(base, LEAST_BACKOFF_SECONDS)
    longest = max(base, LONGEST_BACKOFF_SECONDS)
    wait = float(min(base * 2 ** min(doublings, _MOST_DOUBLINGS), longest))
    return wait * (1 - JITTER * _pseudo_random(f"{snapshot.job.metadata.uid}/{last.stage}/{last.number}"))


def _repeats_failure(snapshot: Snapshot, last: AttemptStatus) -> bool:
    """Whether two attempts in a row ended the same way, so that a third would too.

    Either host memory ran out without progress in between, or the same unexpected error occurred at the same place
    before the job completed a step.
    """
    before = next((a for a in snapshot.attempts if (a.stage, a.number) == (last.stage, last.number - 1)), None)
    if before is None or before.reason != last.reason:
        return False
    if last.reason == Reason.HOST_OUT_OF_MEMORY:
        return (last.reached_step or 0) <= (before.reached_step or 0)
    same = last.reason == Reason.INTERNAL_ERROR and last.fault is not None and last.fault == before.fault
    return same and not _has_stepped(snapshot)


def _has_no_gpu(snapshot: Snapshot, last: AttemptStatus) -> bool:
    """Whether two attempts in a row, on two nodes if available, saw no GPU and the job has not completed a step yet."""
    before = next((a for a in snapshot.attempts if (a.stage, a.number) == (last.stage, last.number - 1)), None)
    twice = before is not None and before.reason == last.reason == Reason.GPU_UNAVAILABLE
    return twice and not _has_stepped(snapshot)


def _has_stepped(snapshot: Snapshot) -> bool:
    progress = snapshot.job.status.progress
    return any(a.reached_step for a in snapshot.attempts) or (progress is not None and bool(progress.step))


def _interruptions_without_progress(snapshot: Snapshot, last: AttemptStatus) -> int:
    """Count the attempts in a row up to `last` that were interrupted before they completed a step."""
    newest_first = sorted((a for a in snapshot.attempts if a.stage == last.stage), key=lambda a: a.number, reverse=True)
    return sum(
        1 for _ in takewhile(lambda a: is_interruption(a, snapshot.attempts) and not _made_progress(a), newest_first)
    )


def _made_progress(attempt: AttemptStatus) -> bool:
    return (attempt.reached_step or 0) > (attempt.from_step or 0)


def _pseudo_random(text: str) -> float:
    """Return a pseudo-random number from 0 to 1 that depends only on the text: decisions are pure."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) / 2**32
