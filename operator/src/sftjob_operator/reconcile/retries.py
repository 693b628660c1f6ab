"""Whether another attempt may follow one that ended, and when."""

import hashlib
from itertools import takewhile
from typing import Final

from sftjob_contract.reasons import Reason
from sftjob_operator.api import AttemptStatus, ConditionReason
from sftjob_operator.reconcile.attempts import failures, is_interruption, retry_after
from sftjob_operator.reconcile.policy import STOPPED, Retry
from sftjob_operator.reconcile.situation import Situation

LONGEST_BACKOFF_SECONDS: Final = 600
LEAST_BACKOFF_SECONDS: Final = 1
"""What the second wait and all after it double from at least, so that no crash loop spins, even with
failurePolicy.backoffSeconds: 0. An end is known to the second, so that a wait may be that much shorter than it says."""
JITTER: Final = 0.25
"""By how much of itself a wait may be shorter, so that jobs that failed together do not come back together."""
_MOST_DOUBLINGS: Final = 32


def may_retry(at: Situation, last: AttemptStatus) -> bool:
    """Whether another attempt may follow `last`, which ended without success."""
    if last.reason in STOPPED:
        return True
    policy = at.job.spec.failure_policy
    match retry_after(last, at.attempts):
        case Retry.FREE:
            return not _has_no_gpu(at, last) and at.interruptions <= policy.max_interruptions
        case Retry.ADJUSTED:
            return any(adjustment.attempt == last.number + 1 for adjustment in at.adjustments)
        case Retry.COUNTED:
            return not _repeats(at, last) and failures(at.attempts, last.stage) <= policy.max_retries
        case _:
            return False


def exhausted(at: Situation, last: AttemptStatus) -> str | None:
    """Which budget is spent so that no attempt may follow `last`, as a condition's reason; None: it is not for that."""
    retry = retry_after(last, at.attempts)
    if retry is Retry.FREE and not _has_no_gpu(at, last) and at.interruptions > 1:
        return ConditionReason.INTERRUPTIONS_EXHAUSTED
    if retry is Retry.COUNTED and not _repeats(at, last) and failures(at.attempts, last.stage) > 1:
        return ConditionReason.RETRIES_EXHAUSTED
    return None


def backoff_seconds(at: Situation, last: AttemptStatus) -> float:
    """Wait between the end of `last` and the next attempt.

    It doubles with every failure of the stage, up to ten minutes; only the first one may be nothing. After an
    interruption the next attempt starts at once, unless the one before was interrupted as well and neither got any
    further.
    """
    retry = retry_after(last, at.attempts)
    if last.reason in STOPPED or retry is Retry.ADJUSTED:
        return 0.0
    doublings = _fruitless(at, last) - 2 if retry is Retry.FREE else failures(at.attempts, last.stage) - 1
    if doublings < 0:
        return 0.0
    base = at.job.spec.failure_policy.backoff_seconds
    if doublings > 0:
        base = max(base, LEAST_BACKOFF_SECONDS)
    longest = max(base, LONGEST_BACKOFF_SECONDS)
    wait = float(min(base * 2 ** min(doublings, _MOST_DOUBLINGS), longest))
    return wait * (1 - JITTER * _share(f"{at.job.metadata.uid}/{last.stage}/{last.number}"))


def _repeats(at: Situation, last: AttemptStatus) -> bool:
    """Whether two attempts in a row ended alike, so that a third would too.

    Host memory ran out and nothing was gained between; or the same unexpected error came at the same place before the
    job has done a step.
    """
    before = next((a for a in at.attempts if (a.stage, a.number) == (last.stage, last.number - 1)), None)
    if before is None or before.reason != last.reason:
        return False
    if last.reason == Reason.HOST_OUT_OF_MEMORY:
        return (last.reached_step or 0) <= (before.reached_step or 0)
    same = last.reason == Reason.INTERNAL_ERROR and last.fault is not None and last.fault == before.fault
    return same and not _has_stepped(at)


def _has_no_gpu(at: Situation, last: AttemptStatus) -> bool:
    """Whether two attempts in a row, on two nodes where there are, saw no GPU and the job has not done a step yet."""
    before = next((a for a in at.attempts if (a.stage, a.number) == (last.stage, last.number - 1)), None)
    twice = before is not None and before.reason == last.reason == Reason.GPU_UNAVAILABLE
    return twice and not _has_stepped(at)


def _has_stepped(at: Situation) -> bool:
    progress = at.job.status.progress
    return any(a.reached_step for a in at.attempts) or (progress is not None and bool(progress.step))


def _fruitless(at: Situation, last: AttemptStatus) -> int:
    """How many attempts in a row, with `last` as the newest, were interrupted before they had done a step."""
    newest_first = sorted((a for a in at.attempts if a.stage == last.stage), key=lambda a: a.number, reverse=True)
    return sum(1 for _ in takewhile(lambda a: is_interruption(a, at.attempts) and not _gained(a), newest_first))


def _gained(attempt: AttemptStatus) -> bool:
    return (attempt.reached_step or 0) > (attempt.from_step or 0)


def _share(text: str) -> float:
    """A number from 0 to 1 that looks random and is always the same for a text: decisions are pure."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) / 2**32
