"""Inputs and outputs of a decision."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sftjob_contract.names import Stage
from sftjob_contract.reports.outcome import Outcome
from sftjob_contract.reports.progress import Progress
from sftjob_operator.api import SFTJob, SFTJobStatus
from sftjob_operator.render import RenderSettings


class PodPhase(StrEnum):
    """Phases of a Pod."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class PodProblem:
    """What stops a Pod from running, or one of its other containers from working: a CamelCase word and a sentence."""

    reason: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PodView:
    """What the operator needs to know of one of its Pods.

    The trainer's container determines `phase`: SUCCEEDED or FAILED once it has ended, even if `kept_by_sidecar`: other
    containers, such as an injected sidecar, keep the Pod running. `problem` is that of such a container.

    Times are RFC 3339; `created` is the API server's, all others are the node's. `exit_code`, `outcome`, `started` and
    `finished` are of the trainer's container; `last_lines` is the end of its log if it left no outcome. `reason` and
    `message` are the kubelet's, for why it waits or ended; `unschedulable` is the scheduler's message; `disruption` and
    `disruption_message` are from the component that evicts the Pod. `node_silent`: the control plane marked the Pod as
    not ready although its kubelet last reported all containers as ready. `claims` are the volume claims that it mounts.
    `rank` distinguishes the Pods of one attempt. `gated`: another component, such as a queue, holds it back from the
    scheduler. `deleting`: its deletion was requested, by any client. `grace_seconds`: time between SIGTERM and SIGKILL.
    """

    name: str
    uid: str
    owner_uid: str | None
    stage: Stage
    attempt: int
    phase: PodPhase
    rank: int = 0
    deleting: bool = False
    gated: bool = False
    node: str | None = None
    grace_seconds: int | None = None
    node_silent: bool = False
    kept_by_sidecar: bool = False
    created: str | None = None
    started: str | None = None
    finished: str | None = None
    exit_code: int | None = None
    reason: str | None = None
    message: str | None = None
    unschedulable: str | None = None
    disruption: str | None = None
    disruption_message: str | None = None
    outcome: Outcome | None = None
    last_lines: str | None = None
    image_id: str | None = None
    config_hash: str | None = None
    problem: PodProblem | None = None
    claims: tuple[str, ...] = ()

    @property
    def live(self) -> bool:
        """Whether the trainer's container runs, or is still to run."""
        return self.phase not in (PodPhase.SUCCEEDED, PodPhase.FAILED)

    @property
    def is_training(self) -> bool:
        """Whether it is a live train Pod, so that its reports count."""
        return self.stage == Stage.TRAIN and self.live


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The newest report of a trainer, and when it arrived."""

    progress: Progress
    received: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class CreateError:
    """A child that could not be created.

    `conflict`: its name belongs to another object. `final`: the API server's own validation rejects values that the
    operator rendered. Neither: somebody has to change something, such as a quota or a policy.
    """

    kind: str
    name: str
    message: str
    conflict: bool = False
    final: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Reachability:
    """Reasons, other than a hung trainer, why its reports may not have arrived.

    `available_since`: since when the endpoint rejected no possible trainer. `certificate_since`: when the endpoint's
    certificate, or the CA in the job's ConfigMap, last changed. `silent_together`: at least as many other trainers fell
    silent at the same time as continue to report.
    """

    available_since: datetime | None = None
    certificate_since: datetime | None = None
    silent_together: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """Everything known about one job at one moment. `pods` may contain Pods of an earlier job of the same name.

    `start_problems` is what Events and volume claims report about Pods that do not start, by Pod UID. `published_ca` is
    the CA that this process knows to be in the job's ConfigMap; None: it has not checked.
    """

    job: SFTJob
    pods: tuple[PodView, ...] = ()
    report: Report | None = None
    create_error: CreateError | None = None
    start_problems: Mapping[str, PodProblem] = field(default_factory=dict)
    reachability: Reachability = Reachability()
    published_ca: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Inputs of decisions besides the job: how children are rendered, and how long a silence is normal."""

    render: RenderSettings
    silence_seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Create:
    """Action: create this child; an existing ConfigMap of the job is updated.

    `expected`: it usually exists, so it is read first.
    """

    body: Mapping[str, Any]
    expected: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Delete:
    """Action: delete this child, but no other object that has its name by now.

    `uid` is that of the observed object; None: the one that belongs to the job, if it exists.
    """

    kind: str
    name: str
    uid: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Publish:
    """Action: set these keys of a ConfigMap of the job, for running Pods; the other keys stay."""

    name: str
    data: Mapping[str, str]


Action = Create | Delete | Publish


@dataclass(frozen=True, kw_only=True, slots=True)
class EventNote:
    """An Event to post about the job. `type` is Normal or Warning.

    Two with the same `cause`, or without one the same message, are one Event.
    """

    type: str
    reason: str
    message: str
    cause: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What to do now: execute `actions` in order, then write `status`, then post `events`.

    `recheck_seconds` is when to decide again even without a change; None: only after a change.
    """

    status: SFTJobStatus
    actions: tuple[Action, ...] = ()
    events: tuple[EventNote, ...] = ()
    recheck_seconds: float | None = None
