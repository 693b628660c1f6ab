"""What a Pod may ask for and this node can not do: refused with a sentence, never left out in silence. Pure."""

from collections.abc import Iterator, Mapping
from itertools import permutations
from pathlib import PurePosixPath
from typing import Any, Final

from sftjob_sandbox.objects import Object

_VOLUMES: Final = ("emptyDir", "persistentVolumeClaim", "configMap", "secret", "downwardAPI", "projected")
_PROJECTIONS: Final = ("configMap", "secret", "downwardAPI", "serviceAccountToken")
_ENV_SOURCES: Final = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef")
_HANDLERS: Final = ("exec", "httpGet", "tcpSocket")
_PROBES: Final = ("startupProbe", "readinessProbe", "livenessProbe")
_REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"
_POD_FIELDS: Final = ("readinessGates", "resourceClaims", "runtimeClassName", "ephemeralContainers")


def unsupported(pod: Object) -> str | None:
    """A sentence about the first thing in the Pod that the node can not do, or None."""
    return next(_problems(pod["spec"]), None)


def _problems(spec: Mapping[str, Any]) -> Iterator[str]:
    for field in _POD_FIELDS:
        if spec.get(field):
            yield _sentence(f"spec.{field}", "leave it out")
    if (spec.get("os") or {}).get("name", "linux") != "linux":
        yield _sentence("spec.os.name", "write linux or leave it out")
    for kind, rules in (spec.get("affinity") or {}).items():
        if rules.get(_REQUIRED):
            yield _sentence(f"spec.affinity.{kind}.{_REQUIRED}", "use nodeSelector, there is only one node")
    for index, volume in enumerate(spec.get("volumes") or ()):
        yield from _volume_problems(volume, f"spec.volumes[{index}]")
    for kind in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(kind) or ()):
            yield from _container_problems(container, f"spec.{kind}[{index}]")


def _volume_problems(volume: Mapping[str, Any], at: str) -> Iterator[str]:
    for kind in volume:
        if kind != "name" and kind not in _VOLUMES:
            yield _sentence(f"{at}.{kind}", f"use one of {', '.join(_VOLUMES)}")
    for index, source in enumerate((volume.get("projected") or {}).get("sources") or ()):
        for kind in source:
            if kind not in _PROJECTIONS:
                yield _sentence(f"{at}.projected.sources[{index}].{kind}", f"use one of {', '.join(_PROJECTIONS)}")


def _container_problems(container: Mapping[str, Any], at: str) -> Iterator[str]:
    for field, remedy in (
        ("restartPolicy", "make it an ordinary container"),
        ("restartPolicyRules", "leave it out"),
        ("lifecycle", "leave it out"),
        ("volumeDevices", "mount the volume as a file system with volumeMounts"),
    ):
        if container.get(field):
            yield _sentence(f"{at}.{field}", remedy)
    for index, variable in enumerate(container.get("env") or ()):
        for kind in variable.get("valueFrom") or {}:
            if kind not in _ENV_SOURCES:
                yield _sentence(f"{at}.env[{index}].valueFrom.{kind}", f"use one of {', '.join(_ENV_SOURCES)}")
    for probe in _PROBES:
        if container.get(probe) and not any(handler in container[probe] for handler in _HANDLERS):
            yield _sentence(f"{at}.{probe}", f"use one of {', '.join(_HANDLERS)}")
    yield from _mount_problems(container, at)


def _mount_problems(container: Mapping[str, Any], at: str) -> Iterator[str]:
    paths = [PurePosixPath(mount["mountPath"]) for mount in container.get("volumeMounts") or ()]
    for path in paths:
        if path == PurePosixPath("/"):
            yield _sentence(f"{at}.volumeMounts: a mountPath of /", "mount the volume below a directory")
    for outer, inner in permutations(paths, 2):
        if inner.is_relative_to(outer):
            text = f"{at}.volumeMounts: {inner} inside {outer}"
            yield _sentence(text, "mount both side by side; there are no mount namespaces")


def _sentence(what: str, remedy: str) -> str:
    return f"the sandbox's node does not support {what}; {remedy}"
