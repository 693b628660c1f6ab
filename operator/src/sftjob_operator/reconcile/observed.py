"""What a decision is made from, and what it consists of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sftjob_contract.names import Stage
from sftjob_contract.outcome import Outcome
from sftjob_contract.progress import Progress
from sftjob_operator.api import SFTJob, SFTJobStatus
from sftjob_operator.render import RenderSettings


class PodPhase(StrEnum):
    """A Pod's own phases."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trouble:
    """What keeps a Pod from running, or one of its other containers from working: one CamelCase word and a sentence."""

    reason: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PodView:
    """What the operator needs to know of one of its Pods.

    The trainer's container decides what `phase` is: SUCCEEDED or FAILED once it has ended, even if `lingers` says that
    other containers, such as an injected sidecar, keep the Pod running. `trouble` is that of such a container.

    Times are RFC 3339; `created` is the API server's, all others are the node's. `exit_code`, `outcome`, `started` and
    `finished` are of the trainer's container; `last_lines` is the end of its log where it left no outcome. `reason` and
    `message` are the kubelet's words on why it waits or ended, `unschedulable` is the scheduler's, `disruption` and
    `disruption_message` are those of whoever takes the Pod away. `node_silent`: the control plane marked the Pod as not
    ready although its kubelet last reported all containers as ready. `claims` are the volume claims that it mounts.
    `rank` tells the Pods of one attempt apart. `gated`: something else, such as a queue, holds it back from the
    scheduler. `deleting`: its end was asked for, by whomever. `grace_seconds`: time between SIGTERM and SIGKILL.
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
    lingers: bool = False
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
    trouble: Trouble | None = None
    claims: tuple[str, ...] = ()

    @property
    def live(self) -> bool:
        """The trainer's container runs, or may run yet."""
        return self.phase not in (PodPhase.SUCCEEDED, PodPhase.FAILED)

    @property
    def is_training(self) -> bool:
        """It is a live train Pod, so its reports count."""
        return self.stage == Stage.TRAIN and self.live


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The newest word of a trainer, and when it arrived."""

    progress: Progress
    received: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """A child that could not be created.

    `conflict`: its name belongs to something else. `final`: the API server's own validation rejects values that the
    operator rendered. Neither: somebody has to change something, such as a quota or a policy.
    """

    kind: str
    name: str
    message: str
    conflict: bool = False
    final: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Reachability:
    """What besides a hung trainer may have kept its reports from arriving.

    `undisturbed_since`: since when the endpoint turned nobody away that may have been a trainer. `certificate_since`:
    when the endpoint's certificate, or the CA in the job's ConfigMap, was last changed. `silent_together`: at least as
    many other trainers fell silent at the same time as go on reporting.
    """

    undisturbed_since: datetime | None = None
    certificate_since: datetime | None = None
    silent_together: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """Everything known about one job at one moment. `pods` may hold Pods of an earlier job of the same name.

    `obstacles` is what Events and volume claims say about Pods that do not start, by the uid of the Pod.
    `published_ca` is what this process knows to be in the job's ConfigMap; None: it has not looked.
    """

    job: SFTJob
    pods: tuple[PodView, ...] = ()
    report: Report | None = None
    refusal: Refusal | None = None
    obstacles: Mapping[str, Trouble] = field(default_factory=dict)
    reachability: Reachability = Reachability()
    published_ca: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What decisions depend on besides the job: how children are rendered, and how long silence is nothing odd."""

    render: RenderSettings
    silence_seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Create:
    """An action: create this child; a ConfigMap of the job that exists already is brought up to date.

    `expected`: it usually exists, so that it is read first.
    """

    body: Mapping[str, Any]
    expected: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Delete:
    """An action: delete this child, and nothing else that has come to have its name.

    `uid` is that of the object as it was observed; None: the one that belongs to the job, if there is one.
    """

    kind: str
    name: str
    uid: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Publish:
    """An action: set these keys of a ConfigMap of the job, for Pods that run; the other keys stay."""

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
    """What to do now: carry out `actions` in order, then make `status` the job's, then post `events`.

    `recheck_seconds` is when to decide again even if nothing happens; None: only when something does.
    """

    status: SFTJobStatus
    actions: tuple[Action, ...] = ()
    events: tuple[EventNote, ...] = ()
    recheck_seconds: float | None = None
