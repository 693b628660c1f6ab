"""The Pods of one attempt as a group: a single Pod, or one on each node."""

from collections.abc import Iterable
from dataclasses import dataclass

from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import Stage
from sftjob_operator.api import AttemptStatus, SFTJob
from sftjob_operator.reconcile.observe.observed import PodView
from sftjob_operator.render import pod_name

Key = tuple[Stage, int]
"""Stage and number of an attempt."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PodGroup:
    """The Pods of an attempt. `names` are those of all of them by rank, `members` the ones that exist."""

    stage: Stage
    attempt: int
    names: tuple[str, ...]
    members: tuple[PodView, ...]

    @property
    def head(self) -> PodView | None:
        """The Pod of rank 0, which reports and writes the result."""
        return next((pod for pod in self.members if pod.rank == 0), None)

    @property
    def live(self) -> tuple[PodView, ...]:
        """Pods that run or are still to run."""
        return tuple(pod for pod in self.members if pod.live)

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of Pods that do not exist yet, or no longer."""
        known = {pod.name for pod in self.members}
        return tuple(name for name in self.names if name not in known)

    @property
    def failed(self) -> PodView | None:
        """The Pod that caused a failure: the first to end without success; Pods that were asked to end come last."""
        bad = (pod for pod in self.members if not pod.live and pod.exit_code != ExitCode.DONE)
        return min(
            bad, key=lambda pod: (pod.deleting, pod.finished is None, pod.finished or "", pod.rank), default=None
        )

    @property
    def started(self) -> str | None:
        """When the last container started; None until all have."""
        times = [pod.started for pod in self.members if pod.started is not None]
        return max(times) if len(times) == len(self.names) else None

    @property
    def finished(self) -> str | None:
        """When the last container ended, as far as it is known."""
        return max((pod.finished for pod in self.members if pod.finished is not None), default=None)


def group_pods(job: SFTJob, pods: Iterable[PodView]) -> dict[Key, PodGroup]:
    """Group the job's own `pods` by attempt."""
    members: dict[Key, list[PodView]] = {}
    for pod in sorted(pods, key=lambda pod: (pod.stage.place, pod.attempt, pod.rank)):
        members.setdefault((pod.stage, pod.attempt), []).append(pod)
    return {
        (stage, attempt): PodGroup(
            stage=stage, attempt=attempt, names=pod_names(job, stage, attempt), members=tuple(found)
        )
        for (stage, attempt), found in members.items()
    }


def head_of(groups: Iterable[PodGroup], attempt: AttemptStatus) -> PodView | None:
    """Return the Pod of rank 0 of an attempt, if it still exists."""
    key = (attempt.stage, attempt.number)
    return next((group.head for group in groups if (group.stage, group.attempt) == key), None)


def pod_names(job: SFTJob, stage: Stage, attempt: int) -> tuple[str, ...]:
    """Return the names of all Pods of an attempt, by rank."""
    nodes = job.spec.resources.nodes if stage == Stage.TRAIN else 1
    return tuple(pod_name(job, stage, attempt, rank) for rank in range(nodes))
