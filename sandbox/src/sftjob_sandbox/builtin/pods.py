"""Rules of Pods that the published schema does not state. Source: kubernetes' pkg/apis/core/validation."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from sftjob_sandbox.apimachinery import names
from sftjob_sandbox.apimachinery.causes import forbidden, invalid, not_supported
from sftjob_sandbox.apimachinery.errors import Cause
from sftjob_sandbox.apimachinery.metadata import one_of, validate_labels
from sftjob_sandbox.apimachinery.objects import Object, copied
from sftjob_sandbox.builtin.containers import check_containers, check_volumes

_UPDATABLE: Final = (
    "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,"
    "`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)
_KNOWN: Final[Mapping[str, frozenset[str]]] = {
    path: frozenset(fields.split())
    for path, fields in {
        "spec": "affinity automountServiceAccountToken containers dnsPolicy enableServiceLinks hostPID hostname "
        "imagePullSecrets nodeName nodeSelector preemptionPolicy priority priorityClassName restartPolicy "
        "runtimeClassName schedulerName securityContext serviceAccount serviceAccountName subdomain "
        "terminationGracePeriodSeconds tolerations volumes",
        "spec.containers": "args command env envFrom image imagePullPolicy name resources securityContext "
        "terminationMessagePath terminationMessagePolicy volumeMounts workingDir",
        "spec.containers.env.valueFrom": "resourceFieldRef secretKeyRef",
        "spec.containers.env.valueFrom.resourceFieldRef": "divisor resource",
        "spec.containers.envFrom": "secretRef",
        "spec.containers.resources": "limits requests",
        "spec.containers.volumeMounts": "mountPath name readOnly subPath",
        "spec.volumes": "configMap emptyDir name persistentVolumeClaim projected",
        "spec.volumes.projected.sources": "configMap serviceAccountToken",
    }.items()
}
"""By place, the fields that this server and its node know. Below any other place they know all."""


def validate_pod(pod: Object, old: Object | None) -> list[Cause]:
    """The rules of a Pod besides those of its metadata and of the published schema."""
    spec = pod.get("spec") or {}
    if unsupported := list(_unsupported(spec, "spec", "spec")):
        return unsupported
    volumes, causes = check_volumes(spec.get("volumes") or [], "spec.volumes")
    causes = [
        *causes,
        *check_containers(spec.get("containers") or [], volumes, "spec.containers"),
        *one_of("spec.restartPolicy", spec.get("restartPolicy"), ("Never",)),
        *one_of("spec.dnsPolicy", spec.get("dnsPolicy"), ("ClusterFirst",), empty=True),
        *_check_token(spec),
        *validate_labels(spec.get("nodeSelector") or {}, "spec.nodeSelector"),
        *_check_names(spec),
        *_check_tolerations(spec.get("tolerations") or []),
    ]
    return causes if old is None else [*causes, *_check_update(spec, old["spec"])]


def _unsupported(value: Any, place: str, path: str) -> Iterator[Cause]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unsupported(item, place, f"{path}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            if key in _KNOWN.get(place, value):
                yield from _unsupported(item, f"{place}.{key}", f"{path}.{key}")
            else:
                yield forbidden(f"{path}.{key}", "this local server does not support the field: remove it")


def _check_token(spec: Object) -> list[Cause]:
    """No Pod gets the default token volume, so each must opt out of it."""
    wanted = spec.get("automountServiceAccountToken", True)
    return [not_supported("spec.automountServiceAccountToken", wanted, ("false",))] if wanted else []


def _check_names(spec: Object) -> list[Cause]:
    rules = {
        "serviceAccountName": names.dns1123_subdomain,
        "nodeName": names.dns1123_subdomain,
        "hostname": names.dns1123_label,
        "subdomain": names.dns1123_label,
        "priorityClassName": names.dns1123_subdomain,
        "runtimeClassName": names.dns1123_subdomain,
    }
    given = [(key, spec[key], rule) for key, rule in rules.items() if spec.get(key)]
    return [invalid(f"spec.{key}", value, text) for key, value, rule in given for text in rule(value)]


def _check_tolerations(tolerations: list[Object]) -> list[Cause]:
    causes: list[Cause] = []
    for index, toleration in enumerate(tolerations):
        where = f"spec.tolerations[{index}]"
        key, operator, effect = (toleration.get(name) or "" for name in ("key", "operator", "effect"))
        causes += [invalid(f"{where}.key", key, text) for text in (names.qualified_name(key) if key else ())]
        if not key and operator != "Exists":
            text = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
            causes.append(invalid(f"{where}.operator", operator, text))
        if toleration.get("tolerationSeconds") is not None and effect != "NoExecute":
            text = "effect must be 'NoExecute' when `tolerationSeconds` is set"
            causes.append(invalid(f"{where}.effect", effect, text))
        if operator not in ("Equal", "", "Exists"):
            causes.append(not_supported(f"{where}.operator", operator, ("Equal", "Exists")))
        elif operator == "Exists" and toleration.get("value"):
            causes.append(invalid(f"{where}.operator", toleration, "value must be empty when `operator` is 'Exists'"))
        causes += one_of(f"{where}.effect", effect, ("NoSchedule", "PreferNoSchedule", "NoExecute"), empty=True)
    return causes


def _check_update(new: Object, old: Object) -> list[Cause]:
    """Only images and added tolerations may change."""
    if len(new.get("containers") or ()) != len(old["containers"]):
        return [forbidden("spec.containers", "pod updates may not add or remove containers")]
    causes = []
    kept = [_without_seconds(toleration) for toleration in new.get("tolerations") or ()]
    if any(_without_seconds(toleration) not in kept for toleration in old.get("tolerations") or ()):
        text = "existing toleration cannot be modified except its tolerationSeconds"
        causes.append(forbidden("spec.tolerations", text))
    rest: Object = copied(new)
    rest.pop("tolerations", None)
    if "tolerations" in old:
        rest["tolerations"] = old["tolerations"]
    for container, before in zip(rest["containers"], old["containers"], strict=True):
        container["image"] = before.get("image")
    if rest != old:
        text = f"pod updates may not change fields other than {_UPDATABLE}\n{_difference(old, rest)}"
        causes.append(forbidden("spec", text))
    return causes


def _without_seconds(toleration: Object) -> Object:
    return {key: value for key, value in toleration.items() if key != "tolerationSeconds"}


def _difference(old: Any, new: Any, path: str = "spec") -> str:
    """The changed fields, one per line; Go's cmp words the same differently."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new})
        return "".join(_difference(old.get(key), new.get(key), f"{path}.{key}") for key in keys)
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return "".join(_difference(a, b, f"{path}[{i}]") for i, (a, b) in enumerate(zip(old, new, strict=True)))
    return "" if old == new else f"- {path}: {old!r}\n+ {path}: {new!r}\n"
