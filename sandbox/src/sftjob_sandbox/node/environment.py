"""The environment and the command line of a container, with `$(VAR)` expanded. Pure but for the look-ups it is given.

Sources: k8s.io/kubernetes pkg/kubelet/kubelet_pods.go (makeEnvironmentVariables),
third_party/forked/golang/expansion.
"""

import base64
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sftjob_sandbox.node.fields import FieldError, container_resource, pod_field
from sftjob_sandbox.objects import Object, namespace_of

Lookup = Callable[[str, str], Object | None]
"""(`configmaps` or `secrets`, name) to the object in the Pod's namespace, or None."""

SINGULAR: Final = {"configmaps": "configmap", "secrets": "secret"}
_KIND: Final = {"configmaps": "ConfigMap", "secrets": "Secret"}
_REFERENCE: Final = re.compile(r"\$(\$|\(([^)]*)\))")


class ConfigError(Exception):
    """A container can not be configured (yet); the text is the kubelet's sentence."""


@dataclass(frozen=True, kw_only=True)
class PodContext:
    """What a container's environment and volumes are made from."""

    pod: Object
    lookup: Lookup
    address: str
    allocatable: Mapping[str, Any]

    def container(self, name: str | None) -> Mapping[str, Any] | None:
        """The container of this name, if there is one."""
        spec = self.pod["spec"]
        containers = [*(spec.get("initContainers") or ()), *spec["containers"]]
        return next((container for container in containers if container["name"] == name), None)


def container_environment(context: PodContext, container: Mapping[str, Any]) -> dict[str, str]:
    """Variables of `envFrom`, then of `env`, each seeing those before it.

    Raises:
        ConfigError: an object or key is missing that is not optional.
    """
    result: dict[str, str] = {}
    for source in container.get("envFrom") or ():
        result.update(_all_of(context, source))
    for variable in container.get("env") or ():
        value = _value(context, container, variable, result)
        if value is not None:
            result[variable["name"]] = value
    return result


def command_line(container: Mapping[str, Any], environment: Mapping[str, str]) -> list[str]:
    """`command` and `args` with references expanded."""
    words = [*(container.get("command") or ()), *(container.get("args") or ())]
    return [expand(word, environment) for word in words]


def expand(text: str, environment: Mapping[str, str]) -> str:
    """`text` with `$(NAME)` replaced where NAME is known; `$$` is a dollar sign."""

    def replacement(found: re.Match[str]) -> str:
        return "$" if found[1] == "$" else environment.get(found[2], found[0])

    return _REFERENCE.sub(replacement, text)


def data_of(resource: str, obj: Object) -> dict[str, bytes]:
    """All keys of a ConfigMap or Secret with their content."""
    if resource == "secrets":
        return {key: base64.b64decode(value) for key, value in (obj.get("data") or {}).items()}
    binary = {key: base64.b64decode(value) for key, value in (obj.get("binaryData") or {}).items()}
    return binary | {key: value.encode() for key, value in (obj.get("data") or {}).items()}


def _all_of(context: PodContext, source: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    resource = "configmaps" if source.get("configMapRef") else "secrets"
    reference = source.get("configMapRef") or source["secretRef"]
    for key, value in _texts(context, resource, reference).items():
        yield source.get("prefix", "") + key, value


def _value(
    context: PodContext, container: Mapping[str, Any], variable: Mapping[str, Any], known: Mapping[str, str]
) -> str | None:
    if variable.get("value") or not variable.get("valueFrom"):
        return expand(variable.get("value") or "", known)
    source = variable["valueFrom"]
    try:
        if reference := source.get("fieldRef"):
            return pod_field(context.pod, reference["fieldPath"], context.address)
        if reference := source.get("resourceFieldRef"):
            named = context.container(reference.get("containerName")) or container
            return container_resource(named, reference, context.allocatable)
    except FieldError as error:
        raise ConfigError(str(error)) from error
    resource = "configmaps" if source.get("configMapKeyRef") else "secrets"
    reference = source.get("configMapKeyRef") or source["secretKeyRef"]
    texts, key = _texts(context, resource, reference), reference["key"]
    if key not in texts and not reference.get("optional"):
        place = f"{namespace_of(context.pod)}/{reference['name']}"
        raise ConfigError(f"couldn't find key {key} in {_KIND[resource]} {place}")
    return texts.get(key)


def _texts(context: PodContext, resource: str, reference: Mapping[str, Any]) -> dict[str, str]:
    obj = context.lookup(resource, reference["name"])
    if obj is None:
        if reference.get("optional"):
            return {}
        raise ConfigError(f'{SINGULAR[resource]} "{reference["name"]}" not found')
    texts = {"data": obj.get("data")} if resource == "configmaps" else obj
    return {key: value.decode(errors="replace") for key, value in data_of(resource, texts).items()}
