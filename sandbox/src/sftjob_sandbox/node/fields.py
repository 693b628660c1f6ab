"""The downward API: fields of a Pod and resources of a container as text. Pure.

Sources: k8s.io/kubernetes pkg/fieldpath/fieldpath.go and pkg/api/v1/resource/helpers.go.
"""

import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from sftjob_sandbox.builtin import quantity
from sftjob_sandbox.objects import Object, name_of, namespace_of, uid_of

_SUBSCRIPT: Final = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")
_RESOURCES: Final = ("cpu", "memory")


class FieldError(Exception):
    """A field or resource that the node can not tell; the text is a sentence."""


def pod_field(pod: Object, path: str, address: str) -> str:
    """Value of a `fieldRef.fieldPath`; `address` is the IP of node and Pod.

    Raises:
        FieldError: the path is not known.
    """
    metadata = pod["metadata"]
    if found := _SUBSCRIPT.fullmatch(path):
        return str((metadata.get(found[1]) or {}).get(found[2], ""))
    if path in ("metadata.labels", "metadata.annotations"):
        return _formatted_map(metadata.get(path.removeprefix("metadata.")) or {})
    values = {
        "metadata.name": name_of(pod),
        "metadata.namespace": namespace_of(pod),
        "metadata.uid": uid_of(pod),
        "spec.nodeName": pod["spec"].get("nodeName", ""),
        "spec.serviceAccountName": pod["spec"].get("serviceAccountName", ""),
        **dict.fromkeys(("status.podIP", "status.podIPs", "status.hostIP", "status.hostIPs"), address),
    }
    if path not in values:
        raise FieldError(f"unsupported fieldPath: {path}")
    return str(values[path])


def container_resource(
    container: Mapping[str, Any], selector: Mapping[str, Any], allocatable: Mapping[str, Any]
) -> str:
    """Value of a `resourceFieldRef`: rounded up in units of its divisor; a missing limit is what the node has.

    Raises:
        FieldError: the resource is not cpu or memory.
    """
    kind, _, name = str(selector["resource"]).partition(".")
    if kind not in ("limits", "requests") or name not in _RESOURCES:
        raise FieldError(f"unsupported container resource: {selector['resource']}")
    given = ((container.get("resources") or {}).get(kind) or {}).get(name)
    if given is None:
        given = allocatable[name] if kind == "limits" else "0"
    divisor = quantity.parse(selector.get("divisor") or "0").value or Decimal(1)
    return str(math.ceil(quantity.parse(given).value / divisor))


def _formatted_map(pairs: Mapping[str, str]) -> str:
    return "\n".join(f"{key}={json.dumps(pairs[key], ensure_ascii=False)}" for key in sorted(pairs))
