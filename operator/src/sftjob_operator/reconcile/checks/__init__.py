"""The checks, in order: the first that applies says what the job's state is and what to do about it."""

from collections.abc import Callable
from typing import Final

from sftjob_operator.reconcile.checks.prepare import prepare_failed, prepare_live, prepare_starts, prepare_waits
from sftjob_operator.reconcile.checks.publish import (
    publish_failed,
    publish_live,
    publish_starts,
    publish_waits,
)
from sftjob_operator.reconcile.checks.refusals import refused, refused_for_good, spec_is_invalid
from sftjob_operator.reconcile.checks.stopping import given_an_end, overdue, suspended
from sftjob_operator.reconcile.checks.train import (
    does_not_fit,
    train_breaks,
    train_failed,
    train_grows,
    train_live,
    train_starts,
    train_waits,
    trained,
)
from sftjob_operator.reconcile.situation import Finding, Situation

CHECKS: Final[tuple[Callable[[Situation], Finding | None], ...]] = (
    spec_is_invalid,
    trained,
    overdue,
    suspended,
    given_an_end,
    refused_for_good,
    refused,
    publish_live,
    train_breaks,
    train_grows,
    train_live,
    publish_failed,
    publish_waits,
    publish_starts,
    train_failed,
    train_waits,
    does_not_fit,
    train_starts,
    prepare_live,
    prepare_failed,
    prepare_waits,
    prepare_starts,
)
"""The last one always applies. A live Pod comes before what an earlier one ended with: there is never a second."""
