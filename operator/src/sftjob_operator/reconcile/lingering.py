"""Pods whose trainer has ended while other containers, such as an injected sidecar, keep them running."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Final

from sftjob_operator.api import AttemptStatus
from sftjob_operator.reconcile.observed import Delete, PodView
from sftjob_operator.reconcile.times import known_time, seconds_since

LINGER_SECONDS: Final = 10
"""How long such a Pod may take to end by itself after its attempt has. A kubelet stops native sidecars once the trainer
has ended, and then the Pod and its log stay."""


def dismissals(
    pods: Iterable[PodView], recorded: Iterable[AttemptStatus], now: datetime
) -> tuple[tuple[Delete, ...], float | None]:
    """Deletions of such Pods, and in how many seconds another is due.

    `recorded` are the attempts of the stored status: no Pod is deleted before the status has how it ended.
    """
    ends = {(entry.stage, entry.number): known_time(entry.end_time) for entry in recorded}
    due = [
        (LINGER_SECONDS - max(0.0, seconds_since(end, now)), pod)
        for pod in _lingering(pods)
        if (end := ends.get((pod.stage, pod.attempt))) is not None
    ]
    return _deletions(due)


def dismissals_after(
    pods: Iterable[PodView], completion_time: str | None, now: datetime
) -> tuple[tuple[Delete, ...], float | None]:
    """The same for a job that has ended, so that its status has how each of its Pods ended."""
    ended = known_time(completion_time)
    left = 0.0 if ended is None else LINGER_SECONDS - max(0.0, seconds_since(ended, now))
    return _deletions([(left, pod) for pod in _lingering(pods)])


def _lingering(pods: Iterable[PodView]) -> Iterator[PodView]:
    return (pod for pod in pods if pod.lingers and not pod.deleting)


def _deletions(due: list[tuple[float, PodView]]) -> tuple[tuple[Delete, ...], float | None]:
    now = tuple(Delete(kind="Pod", name=pod.name, uid=pod.uid) for left, pod in due if left <= 0)
    return now, min((left for left, _ in due if left > 0), default=None)
