"""Parse a Pod of the API server into the fields that decisions need."""

import typing
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, Final

from sftjob_contract.codec import from_untrusted_json
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import (
    ANNOTATION_CONFIG_HASH,
    ANNOTATION_JOB_UID,
    CONTAINER,
    KIND,
    LABEL_ATTEMPT,
    LABEL_JOB,
    LABEL_NODE_RANK,
    LABEL_STAGE,
    TERMINATION_MESSAGE_LIMIT_BYTES,
    Stage,
)
from sftjob_contract.reports.outcome import Outcome
from sftjob_contract.secrets import shown
from sftjob_operator.reconcile.observe.observed import PodPhase, PodProblem, PodView
from sftjob_operator.reconcile.observe.starting import NOT_STARTED, STARTING
from sftjob_operator.reconcile.observe.times import known_time
from sftjob_operator.reconcile.reports.limits import usable_outcome

Body = Mapping[str, Any]
_ENDED: Final = frozenset({PodPhase.SUCCEEDED, PodPhase.FAILED})
LAST_LINES: Final = 5
LAST_CHARACTERS: Final = 400
"""Maximum length of a log's end in a status."""
_KINDS: Final = {
    name: (typing.get_origin(hint),) if typing.get_origin(hint) is tuple else typing.get_args(hint) or (hint,)
    for name, hint in typing.get_type_hints(PodView).items()
}
"""Types of a view's values. Values of other types do not come from the Pod API, and would raise errors in a
decision."""
_MOST_DIGITS: Final = 9
"""Maximum of an attempt number or a rank."""


def pod_job(body: Body) -> tuple[str, str] | None:
    """Return namespace and name of the job in a Pod's labels; None if they are not the operator's labels."""
    metadata = body["metadata"]
    labels = metadata.get("labels") or {}
    numbers = (labels.get(LABEL_ATTEMPT, ""), labels.get(LABEL_NODE_RANK, "0"))
    is_labelled = labels.get(LABEL_STAGE) in set(Stage) and all(map(_is_number, numbers))
    return (metadata["namespace"], labels[LABEL_JOB]) if is_labelled and labels.get(LABEL_JOB) else None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS


def owner_uid(body: Body) -> str | None:
    """Return the UID of the SFTJob that controls an object, if any."""
    owners = body["metadata"].get("ownerReferences") or ()
    return next((owner["uid"] for owner in owners if owner.get("controller") and owner.get("kind") == KIND), None)


def belongs_to(body: Body, job_uid: str) -> bool:
    """Whether an object was created for the job of this UID: as its child, or as a claim that outlives it."""
    made_for = (body["metadata"].get("annotations") or {}).get(ANNOTATION_JOB_UID)
    return job_uid in (owner_uid(body), made_for)


def pod_view(body: Body) -> PodView:
    """Parse a Pod for which `pod_job` returned a job.

    Raises:
        TypeError: a value does not have its type in the API.
        UnicodeEncodeError: a text has characters that JSON of the API cannot contain.
    """
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    container = _named(status.get("containerStatuses") or (), CONTAINER)
    state = container.get("state") or {}
    ended, waiting = state.get("terminated") or {}, state.get("waiting") or {}
    stage = Stage(metadata["labels"][LABEL_STAGE])
    disruption = _disruption(status)
    outcome = _outcome(ended, stage)
    pod_phase = _phase(status.get("phase"))
    phase = _trainer_phase(pod_phase, ended, waiting)
    message = status.get("message") or waiting.get("message")
    view = PodView(
        name=metadata["name"],
        uid=metadata["uid"],
        owner_uid=owner_uid(body),
        stage=stage,
        attempt=int(metadata["labels"][LABEL_ATTEMPT]),
        phase=phase,
        rank=int(metadata["labels"].get(LABEL_NODE_RANK, "0")),
        deleting="deletionTimestamp" in metadata,
        gated=_not_scheduled(status, "SchedulingGated") is not None,
        node=spec.get("nodeName"),
        grace_seconds=spec.get("terminationGracePeriodSeconds"),
        node_silent=_node_is_silent(status),
        kept_by_sidecar=phase != pod_phase and phase in _ENDED,
        created=known_time(metadata.get("creationTimestamp")),
        started=_started(state),
        finished=known_time(ended.get("finishedAt")),
        exit_code=ended.get("exitCode"),
        reason=status.get("reason") or ended.get("reason") or waiting.get("reason"),
        message=None if message is None else shown(message),
        unschedulable=_not_scheduled(status, "Unschedulable"),
        disruption=disruption.get("reason"),
        disruption_message=disruption.get("message"),
        outcome=outcome,
        last_lines=_last_lines(ended.get("message")) if outcome is None else None,
        image_id=container.get("imageID") or None,
        config_hash=(metadata.get("annotations") or {}).get(ANNOTATION_CONFIG_HASH),
        problem=_problem(spec, status),
        claims=_claims(spec),
    )
    for name, kinds in _KINDS.items():
        value = getattr(view, name)
        if not isinstance(value, kinds):
            raise TypeError(name)
        if isinstance(value, str):
            value.encode()
    return view


def _phase(text: str | None) -> PodPhase:
    known = set(PodPhase)
    return PodPhase(text) if text in known else PodPhase.PENDING


def _started(state: Body) -> str | None:
    ended = state.get("terminated") or {}
    if ended.get("reason") in NOT_STARTED:
        return None
    return known_time(ended.get("startedAt") or (state.get("running") or {}).get("startedAt"))


def _trainer_phase(pod_phase: PodPhase, ended: Body, waiting: Body) -> PodPhase:
    """Return the phase of the Pod by the trainer's container alone: others may run before and after it."""
    if pod_phase in _ENDED or not (ended or waiting):
        return pod_phase
    if ended:
        return PodPhase.SUCCEEDED if ended.get("exitCode") == ExitCode.DONE else PodPhase.FAILED
    return PodPhase.PENDING if pod_phase == PodPhase.RUNNING else pod_phase


def _problem(spec: Body, status: Body) -> PodProblem | None:
    """Return the first other container that cannot start or has failed."""
    always = {c.get("name") for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"}
    init = (
        ("Sidecar" if c.get("name") in always else "Init container", c)
        for c in status.get("initContainerStatuses") or ()
    )
    others = (("Container", c) for c in status.get("containerStatuses") or () if c.get("name") != CONTAINER)
    return next((seen for kind, c in chain(init, others) if (seen := _container_problem(kind, c)) is not None), None)


def _container_problem(kind: str, container: Body) -> PodProblem | None:
    state, before = container.get("state") or {}, (container.get("lastState") or {}).get("terminated") or {}
    waiting, ended = state.get("waiting") or {}, state.get("terminated") or {}
    name = f"{kind} {container.get('name')}"
    reason = waiting.get("reason")
    if isinstance(reason, str) and reason not in STARTING:
        text = shown(waiting.get("message") or "no message given")[:LAST_CHARACTERS]
        last = f"; it last {_end(before)}" if before else ""
        return PodProblem(reason=reason, message=f"{name} waits with {reason}: {text}{last}")
    if ended.get("exitCode"):
        reason = "InitContainerFailed" if kind == "Init container" else "SidecarFailed"
        return PodProblem(reason=reason, message=f"{name} {_end(ended)}")
    return None


def _end(terminated: Body) -> str:
    log = _last_lines(terminated.get("message"))
    text = f": {log}" if log else ""
    return f"ended with exit code {terminated.get('exitCode')} ({terminated.get('reason') or 'no reason given'}){text}"


def _node_is_silent(status: Body) -> bool:
    """Whether the node controller marked the Pod: it sets Ready to False and does not change ContainersReady.

    https://github.com/kubernetes/kubernetes/blob/v1.36.0/pkg/controller/util/node/controller_utils.go
    """
    conditions = {c.get("type"): c for c in status.get("conditions") or ()}
    ready, containers = conditions.get("Ready") or {}, conditions.get("ContainersReady") or {}
    by_kubelet = ready.get("reason") in ("ContainersNotReady", "PodCompleted", "PodFailed", "ReadinessGatesNotReady")
    marked = ready.get("status") != "True" and containers.get("status") == "True" and not by_kubelet
    return bool(ready) and (marked or ready.get("reason") in ("NodeNotReady", "NodeStatusUnknown"))


def mounts(body: Body, claim: str) -> bool:
    """Whether a Pod of any owner mounts a volume claim."""
    return claim in _claims(body.get("spec") or {})


def _claims(spec: Body) -> tuple[str, ...]:
    """Return the names of the volume claims that a Pod mounts."""
    sources = (volume.get("persistentVolumeClaim") or {} for volume in spec.get("volumes") or ())
    return tuple(source["claimName"] for source in sources if isinstance(source.get("claimName"), str))


def _not_scheduled(status: Body, reason: str) -> str | None:
    """Return the message of condition PodScheduled if it is False for this reason."""
    for condition in status.get("conditions") or ():
        if (condition.get("type"), condition.get("status"), condition.get("reason")) == (
            "PodScheduled",
            "False",
            reason,
        ):
            return condition.get("message") or "no node fits"
    return None


def _disruption(status: Body) -> Body:
    """Return condition DisruptionTarget if it holds: Kubernetes evicts the Pod, and gives the reason."""
    conditions = status.get("conditions") or ()
    return next((c for c in conditions if (c.get("type"), c.get("status")) == ("DisruptionTarget", "True")), {})


def _last_lines(text: str | None) -> str | None:
    """Return the end of the log as the kubelet recorded it, on one line and without possible secrets."""
    lines = [line.strip() for line in (text or "")[-TERMINATION_MESSAGE_LIMIT_BYTES:].splitlines() if line.strip()]
    text = shown(" | ".join(lines[-LAST_LINES:]))
    return text[-LAST_CHARACTERS:] or None


def _outcome(ended: Body, stage: Stage) -> Outcome | None:
    """Return the container's termination message, if it is readable and consistent with the container's end."""
    if not (text := ended.get("message")):
        return None
    try:
        outcome = usable_outcome(from_untrusted_json(Outcome, text, longest=TERMINATION_MESSAGE_LIMIT_BYTES))
    except ValueError:
        return None
    if outcome.stage != stage or outcome.exit_code != ended.get("exitCode"):
        return None
    return outcome


def _named(items: Iterable[Body], name: str) -> Body:
    return next((item for item in items if item.get("name") == name), {})
