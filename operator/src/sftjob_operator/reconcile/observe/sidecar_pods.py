"""Pods whose trainer has ended while other containers, such as an injected sidecar, keep them running."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Final

from sftjob_operator.api import AttemptStatus
from sftjob_operator.reconcile.observe.observed import Delete, PodView
from sftjob_operator.reconcile.observe.times import known_time, seconds_since

SIDECAR_EXIT_SECONDS: Final = 10
"""How long such a Pod may take to end by itself after its attempt. A kubelet stops native sidecars once the trainer has
ended, and then the Pod and its log are kept."""


def sidecar_pod_deletions(
    pods: Iterable[PodView], recorded: Iterable[AttemptStatus], now: datetime
) -> tuple[tuple[Delete, ...], float | None]:
    """Return deletions of such Pods, and seconds until the next one is due.

    `recorded` are the attempts of the stored status: a Pod is deleted only after the status records how it ended.
    """
    ends = {(entry.stage, entry.number): known_time(entry.end_time) for entry in recorded}
    due = [
        (SIDECAR_EXIT_SECONDS - max(0.0, seconds_since(end, now)), pod)
        for pod in _lingering(pods)
        if (end := ends.get((pod.stage, pod.attempt))) is not None
    ]
    return _deletions(due)


def sidecar_pod_deletions_after_end(
    pods: Iterable[PodView], completion_time: str | None, now: datetime
) -> tuple[tuple[Delete, ...], float | None]:
    """The same for a job that has ended, whose status records how each of its Pods ended."""
    ended = known_time(completion_time)
    left = 0.0 if ended is None else SIDECAR_EXIT_SECONDS - max(0.0, seconds_since(ended, now))
    return _deletions([(left, pod) for pod in _lingering(pods)])


def _lingering(pods: Iterable[PodView]) -> Iterator[PodView]:
    return (pod for pod in pods if pod.kept_by_sidecar and not pod.deleting)


def _deletions(due: list[tuple[float, PodView]]) -> tuple[tuple[Delete, ...], float | None]:
    now = tuple(Delete(kind="Pod", name=pod.name, uid=pod.uid) for left, pod in due if left <= 0)
    return now, min((left for left, _ in due if left > 0), default=None)
