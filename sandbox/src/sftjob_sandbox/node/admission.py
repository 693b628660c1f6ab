"""What this node cannot do for a Pod that the API server accepts: refused with a sentence, never ignored. Pure."""

from collections.abc import Iterator, Mapping
from itertools import permutations
from pathlib import PurePosixPath
from typing import Any, Final

from sftjob_sandbox.apimachinery.objects import Object

_REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"


def unsupported(pod: Object) -> str | None:
    """A sentence about the first thing in the Pod that the node cannot do, or None."""
    return next(_problems(pod["spec"]), None)


def _problems(spec: Mapping[str, Any]) -> Iterator[str]:
    for kind, rules in (spec.get("affinity") or {}).items():
        if rules.get(_REQUIRED):
            yield _sentence(f"spec.affinity.{kind}.{_REQUIRED}", "use nodeSelector, there is only one node")
    for index, container in enumerate(spec["containers"]):
        yield from _mount_problems(container, f"spec.containers[{index}].volumeMounts")


def _mount_problems(container: Mapping[str, Any], where: str) -> Iterator[str]:
    paths = [PurePosixPath(mount["mountPath"]) for mount in container.get("volumeMounts") or ()]
    if PurePosixPath("/") in paths:
        yield _sentence(f"{where}: a mountPath of /", "mount the volume below a directory")
    for outer, inner in permutations(paths, 2):
        if inner.is_relative_to(outer):
            text = f"{where}: {inner} inside {outer}"
            yield _sentence(text, "mount both side by side; there are no mount namespaces")


def _sentence(what: str, remedy: str) -> str:
    return f"the sandbox's node does not support {what}; {remedy}"
