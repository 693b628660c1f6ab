"""Answers of a server that refuses a create: codes, reasons and words of real API servers and policy engines.

One table for the proxy that misbehaves (support.servers.hostile_api) and for clusters in memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sftjob_operator.effects.cluster import ClusterError
from sftjob_operator.effects.kube import _error

PLURALS: Final[Mapping[str, str]] = {
    "Pod": "pods",
    "ConfigMap": "configmaps",
    "PersistentVolumeClaim": "persistentvolumeclaims",
    "Service": "services",
    "Event": "events",
}
KINDS: Final[Mapping[str, str]] = {plural: kind for kind, plural in PLURALS.items()}


@dataclass(frozen=True, kw_only=True)
class Denial:
    """One answer; `what` refuses. `message` and `cause` may name {resource}, {kind}, {name} and {namespace}.

    `of` are the kinds of objects that it is an answer for, empty for every one.
    """

    what: str
    code: int
    reason: str | None
    message: str
    cause: Mapping[str, str] | None = None
    of: tuple[str, ...] = ()

    def fits(self, kind: str) -> bool:
        """Whether a server gives this answer to the create of such an object."""
        return not self.of or kind in self.of

    def status(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        """Body of the answer to the create of this object."""
        words = {"resource": PLURALS[kind], "kind": kind, "namespace": namespace, "name": name}
        details: dict[str, Any] = {"name": name, "kind": PLURALS[kind]}
        if self.cause is not None:
            details["causes"] = [{key: text.format(**words) for key, text in self.cause.items()}]
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": self.code}
        status |= {"message": self.message.format(**words), "details": details}
        return status if self.reason is None else {**status, "reason": self.reason}

    def error(self, kind: str, namespace: str, name: str) -> ClusterError:
        """The error that the operator's client makes of it."""
        return _error(self.code, self.status(kind, namespace, name), "POST")


_FORBIDDEN: Final = '{resource} "{name}" is forbidden: '
_WEBHOOK: Final = 'failed calling webhook "mutate.kyverno.svc-fail": failed to call webhook: '
_KYVERNO: Final = 'Post "https://kyverno-svc.kyverno.svc:443/mutate/fail?timeout=10s": '

DENIALS: Final = (
    Denial(
        what="ValidatingAdmissionPolicy",
        code=422,
        reason="Invalid",
        message=_FORBIDDEN
        + "ValidatingAdmissionPolicy 'require-team-label' with binding 'require-team-label' denied request: "
        + 'every object needs the label "team"',
        cause={"message": 'every object needs the label "team"'},
    ),
    Denial(
        what="ValidatingAdmissionPolicy with reason Forbidden",
        code=403,
        reason="Forbidden",
        message=_FORBIDDEN
        + "ValidatingAdmissionPolicy 'trusted-registries' with binding 'trusted-registries' denied request: "
        + "the image must come from registry.example.com/",
        cause={"message": "the image must come from registry.example.com/"},
        of=("Pod",),
    ),
    Denial(
        what="webhook without a code",
        code=400,
        reason=None,
        message='admission webhook "validate.kyverno.svc-fail" denied the request: \n\n'
        "resource {kind}/{namespace}/{name} was blocked due to the following policies \n\nrequire-labels:\n"
        "  check-for-labels: 'validation error: the label `team` is required. rule "
        "check-for-labels failed at path /metadata/labels/team/'\n",
    ),
    Denial(
        what="webhook that forbids",
        code=403,
        reason="Forbidden",
        message='admission webhook "validation.gatekeeper.sh" denied the request: [all-must-have-owner] you must '
        'provide labels: {{"owner"}}',
    ),
    Denial(
        what="webhook that calls it invalid",
        code=422,
        reason="Invalid",
        message='admission webhook "policy.sigstore.dev" denied the request: validation failed: failed policy: '
        "signed-images: spec.containers[0].image",
        of=("Pod",),
    ),
    Denial(
        what="webhook that times out",
        code=500,
        reason="InternalError",
        message=f"Internal error occurred: {_WEBHOOK}{_KYVERNO}context deadline exceeded",
        cause={"message": f"{_WEBHOOK}{_KYVERNO}context deadline exceeded"},
    ),
    Denial(
        what="webhook without endpoints",
        code=500,
        reason="InternalError",
        message=f'Internal error occurred: {_WEBHOOK}{_KYVERNO}no endpoints available for service "kyverno-svc"',
        cause={"message": f'{_WEBHOOK}{_KYVERNO}no endpoints available for service "kyverno-svc"'},
    ),
    Denial(
        what="request that times out",
        code=504,
        reason="Timeout",
        message="Timeout: request did not complete within requested timeout - context deadline exceeded",
    ),
    Denial(
        what="ResourceQuota",
        code=403,
        reason="Forbidden",
        message=_FORBIDDEN + "exceeded quota: team, requested: requests.memory=16Gi, used: requests.memory=90Gi, "
        "limited: requests.memory=100Gi",
        of=("Pod", "PersistentVolumeClaim"),
    ),
    Denial(
        what="ResourceQuota that counts objects",
        code=403,
        reason="Forbidden",
        message=_FORBIDDEN + "exceeded quota: team, requested: count/{resource}=1, used: count/{resource}=10, "
        "limited: count/{resource}=10",
    ),
    Denial(
        what="ResourceQuota on a limit that the Pod lacks",
        code=403,
        reason="Forbidden",
        message=_FORBIDDEN + "failed quota: team: must specify limits.cpu for: trainer",
        of=("Pod",),
    ),
    Denial(
        what="ResourceQuota that is not counted yet",
        code=403,
        reason="Forbidden",
        message=_FORBIDDEN + "status unknown for quota: team, resources: count/{resource}",
    ),
    Denial(
        what="ResourceQuota that changed meanwhile",
        code=409,
        reason="Conflict",
        message='Operation cannot be fulfilled on resourcequotas "team": the object has been modified; please apply '
        "your changes to the latest version and try again",
    ),
    Denial(
        what="LimitRange maximum",
        code=403,
        reason="Forbidden",
        message=_FORBIDDEN + "maximum memory usage per Container is 8Gi, but limit is 16Gi",
        of=("Pod",),
    ),
    Denial(
        what="LimitRange maximum of claims",
        code=403,
        reason="Forbidden",
        message=_FORBIDDEN + "maximum storage usage per PersistentVolumeClaim is 10Gi, but request is 50Gi",
        of=("PersistentVolumeClaim",),
    ),
    Denial(
        what="LimitRange default below the request",
        code=422,
        reason="Invalid",
        message='Pod "{name}" is invalid: spec.containers[0].resources.requests: Invalid value: "4": must be less than '
        "or equal to cpu limit of 2",
        cause={
            "reason": "FieldValueInvalid",
            "message": 'Invalid value: "4": must be less than or equal to cpu limit of 2',
            "field": "spec.containers[0].resources.requests",
        },
        of=("Pod",),
    ),
    Denial(
        what="Pod Security",
        code=403,
        reason="Forbidden",
        message=_FORBIDDEN
        + 'violates PodSecurity "restricted:latest": seccompProfile (pod or container "trainer" must set '
        'securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")',
        of=("Pod",),
    ),
    Denial(
        what="image policy",
        code=403,
        reason="Forbidden",
        message=_FORBIDDEN
        + 'image policy webhook backend denied one or more images: "sftjob-trainer:0.1.0" is not signed',
        of=("Pod",),
    ),
    Denial(
        what="missing ServiceAccount",
        code=403,
        reason="Forbidden",
        message=_FORBIDDEN + 'error looking up service account {namespace}/default: serviceaccount "default" not found',
        of=("Pod",),
    ),
    Denial(
        what="missing PriorityClass",
        code=403,
        reason="Forbidden",
        message=_FORBIDDEN + "no PriorityClass with name research was found",
        of=("Pod",),
    ),
    Denial(
        what="missing right",
        code=403,
        reason="Forbidden",
        message=_FORBIDDEN + 'User "system:serviceaccount:sftjob-system:sftjob-operator" cannot create resource '
        '"{resource}" in API group "" in the namespace "{namespace}"',
    ),
    Denial(
        what="throttled",
        code=429,
        reason="TooManyRequests",
        message="Too many requests, please try again later.",
    ),
)
"""Whatever refuses may let it pass at the next try."""

DRAINING: Final = (
    Denial(
        what="namespace that is being deleted",
        code=403,
        reason="Forbidden",
        message=_FORBIDDEN + "unable to create new content in namespace {namespace} because it is being terminated",
        cause={
            "reason": "NamespaceTerminating",
            "message": "namespace {namespace} is being terminated",
            "field": "metadata.namespace",
        },
    ),
    Denial(
        what="namespace that is gone",
        code=404,
        reason="NotFound",
        message='namespaces "{namespace}" not found',
    ),
)
"""The same for a namespace that goes away, or is away for a moment in what a server remembers of it."""


def denials_of(kind: str) -> tuple[Denial, ...]:
    """Those that fit the create of such an object."""
    return tuple(denial for denial in DENIALS if denial.fits(kind))
