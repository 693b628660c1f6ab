"""The checks, in order: the first that applies defines the job's state and the next actions."""

from collections.abc import Callable
from typing import Final

from sftjob_operator.reconcile.checks.create_errors import create_invalid, create_rejected, spec_is_invalid
from sftjob_operator.reconcile.checks.prepare import prepare_failed, prepare_live, prepare_starts, prepare_waits
from sftjob_operator.reconcile.checks.publish import (
    publish_failed,
    publish_live,
    publish_starts,
    publish_waits,
)
from sftjob_operator.reconcile.checks.stopping import operator_ends_attempt, overdue, suspended
from sftjob_operator.reconcile.checks.train import (
    exceeds_gpu_memory,
    train_failed,
    train_live,
    train_pod_lost,
    train_pods_missing,
    train_starts,
    train_waits,
    trained,
)
from sftjob_operator.reconcile.snapshot import CheckResult, Snapshot

CHECKS: Final[tuple[Callable[[Snapshot], CheckResult | None], ...]] = (
    spec_is_invalid,
    trained,
    overdue,
    suspended,
    operator_ends_attempt,
    create_invalid,
    create_rejected,
    publish_live,
    train_pod_lost,
    train_pods_missing,
    train_live,
    publish_failed,
    publish_waits,
    publish_starts,
    train_failed,
    train_waits,
    exceeds_gpu_memory,
    train_starts,
    prepare_live,
    prepare_failed,
    prepare_waits,
    prepare_starts,
)
"""The last one always applies. Checks of live Pods precede those of ended ones: there is never a second live Pod."""
