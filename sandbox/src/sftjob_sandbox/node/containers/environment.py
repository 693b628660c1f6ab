"""The environment and the command line of a container, with `$(VAR)` expanded. Pure except for the look-ups.

Sources: k8s.io/kubernetes pkg/kubelet/kubelet_pods.go (makeEnvironmentVariables), pkg/api/v1/resource/helpers.go and
third_party/forked/golang/expansion.
"""

import base64
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from sftjob_sandbox.apimachinery import quantity
from sftjob_sandbox.apimachinery.objects import Object, namespace_of

Lookup = Callable[[str, str], Object | None]
"""(`configmaps` or `secrets`, name) to the object in the Pod's namespace, or None."""

_REFERENCE: Final = re.compile(r"\$(\$|\(([^)]*)\))")


class ConfigError(Exception):
    """A container cannot be configured (yet); the text is the kubelet's sentence."""


@dataclass(frozen=True, kw_only=True)
class PodContext:
    """Sources of a container's environment and volumes."""

    pod: Object
    lookup: Lookup
    allocatable: Mapping[str, Any]


def container_environment(context: PodContext, container: Mapping[str, Any]) -> dict[str, str]:
    """Variables of `envFrom`, then of `env`; each may refer to those before it.

    Raises ConfigError: an object or key is missing that is not optional.
    """
    result: dict[str, str] = {}
    for source in container.get("envFrom") or ():
        result.update(_secret(context, source["secretRef"]))
    for variable in container.get("env") or ():
        value = _value(context, container, variable, result)
        if value is not None:
            result[variable["name"]] = value
    return result


def command_line(container: Mapping[str, Any], environment: Mapping[str, str]) -> list[str]:
    """`command` and `args` with references expanded."""
    words = [*(container.get("command") or ()), *(container.get("args") or ())]
    return [_expanded(word, environment) for word in words]


def _expanded(text: str, environment: Mapping[str, str]) -> str:
    """`text` with `$(NAME)` replaced where NAME is known; `$$` is a dollar sign."""

    def replacement(found: re.Match[str]) -> str:
        return "$" if found[1] == "$" else environment.get(found[2], found[0])

    return _REFERENCE.sub(replacement, text)


def _value(
    context: PodContext, container: Mapping[str, Any], variable: Mapping[str, Any], known: Mapping[str, str]
) -> str | None:
    source = variable.get("valueFrom")
    if variable.get("value") or not source:
        return _expanded(variable.get("value") or "", known)
    if selector := source.get("resourceFieldRef"):
        return _resource(container, selector, context.allocatable)
    reference = source["secretKeyRef"]
    texts, key = _secret(context, reference), reference["key"]
    if key not in texts and not reference.get("optional"):
        raise ConfigError(f"couldn't find key {key} in Secret {namespace_of(context.pod)}/{reference['name']}")
    return texts.get(key)


def _secret(context: PodContext, reference: Mapping[str, Any]) -> dict[str, str]:
    secret = context.lookup("secrets", reference["name"])
    if secret is None:
        if reference.get("optional"):
            return {}
        raise ConfigError(f'secret "{reference["name"]}" not found')
    data = secret.get("data") or {}
    return {key: base64.b64decode(value).decode(errors="replace") for key, value in data.items()}


def _resource(container: Mapping[str, Any], selector: Mapping[str, Any], allocatable: Mapping[str, Any]) -> str:
    """Value of a `resourceFieldRef`: rounded up in units of its divisor; a missing limit is the node's capacity."""
    kind, _, name = str(selector["resource"]).partition(".")
    if kind not in ("limits", "requests") or name not in ("cpu", "memory"):
        raise ConfigError(f"unsupported container resource: {selector['resource']}")
    amount = ((container.get("resources") or {}).get(kind) or {}).get(name)
    if amount is None:
        amount = allocatable[name] if kind == "limits" else "0"
    divisor = quantity.parse(selector.get("divisor") or "0").value or Decimal(1)
    return str(math.ceil(quantity.parse(amount).value / divisor))
