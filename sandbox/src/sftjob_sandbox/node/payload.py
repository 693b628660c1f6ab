"""What the files of a configMap, secret, downwardAPI or projected volume hold. Pure but for the look-ups it is given.

Sources: k8s.io/kubernetes pkg/volume/{configmap,secret,downwardapi,projected}.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from sftjob_sandbox.node.environment import SINGULAR, PodContext, data_of
from sftjob_sandbox.node.fields import FieldError, container_resource, pod_field

DEFAULT_MODE: Final = 0o644
_KEY: Final = {"configmaps": "config", "secrets": "secret"}

TokenIssuer = Callable[[Mapping[str, Any]], str]
"""A `serviceAccountToken` projection to the token that belongs into its file."""


class MountError(Exception):
    """A volume can not be set up (yet); the text is the kubelet's sentence."""


@dataclass(frozen=True)
class File:
    """One file of a volume."""

    content: bytes
    mode: int


def is_payload(volume: Mapping[str, Any]) -> bool:
    """Whether the volume's files are made from objects of the API."""
    return any(volume.get(kind) is not None for kind in ("configMap", "secret", "downwardAPI", "projected"))


def volume_files(volume: Mapping[str, Any], context: PodContext, issue_token: TokenIssuer) -> dict[str, File]:
    """Files by their path in the volume.

    Raises:
        MountError: an object or key is missing that is not optional.
    """
    if source := volume.get("configMap"):
        return _from_object(context, "configmaps", source, source["name"], _mode(source))
    if source := volume.get("secret"):
        return _from_object(context, "secrets", source, source["secretName"], _mode(source))
    if source := volume.get("downwardAPI"):
        return _from_fields(context, source, _mode(source))
    source = volume["projected"]
    files: dict[str, File] = {}
    for projection in source.get("sources") or ():
        files.update(_projected(projection, context, issue_token, _mode(source)))
    return files


def _mode(source: Mapping[str, Any]) -> int:
    mode = source.get("defaultMode")
    return DEFAULT_MODE if mode is None else int(mode)


def _projected(
    projection: Mapping[str, Any], context: PodContext, issue_token: TokenIssuer, mode: int
) -> dict[str, File]:
    if source := projection.get("configMap"):
        return _from_object(context, "configmaps", source, source["name"], mode)
    if source := projection.get("secret"):
        return _from_object(context, "secrets", source, source["name"], mode)
    if source := projection.get("downwardAPI"):
        return _from_fields(context, source, mode)
    source = projection["serviceAccountToken"]
    return {_inside(source["path"]): File(issue_token(source).encode(), mode)}


def _from_object(
    context: PodContext, resource: str, source: Mapping[str, Any], name: str, mode: int
) -> dict[str, File]:
    obj = context.lookup(resource, name)
    if obj is None:
        if source.get("optional"):
            return {}
        raise MountError(f'{SINGULAR[resource]} "{name}" not found')
    data = data_of(resource, obj)
    if not source.get("items"):
        return {key: File(content, mode) for key, content in data.items()}
    files = {}
    for item in source["items"]:
        if item["key"] in data:
            item_mode = mode if item.get("mode") is None else int(item["mode"])
            files[_inside(item["path"])] = File(data[item["key"]], item_mode)
        elif not source.get("optional"):
            raise MountError(f"references non-existent {_KEY[resource]} key: {item['key']}")
    return files


def _from_fields(context: PodContext, source: Mapping[str, Any], mode: int) -> dict[str, File]:
    files = {}
    for item in source.get("items") or ():
        item_mode = mode if item.get("mode") is None else int(item["mode"])
        files[_inside(item["path"])] = File(_field_text(context, item).encode(), item_mode)
    return files


def _field_text(context: PodContext, item: Mapping[str, Any]) -> str:
    try:
        if reference := item.get("fieldRef"):
            return pod_field(context.pod, reference["fieldPath"], context.address)
        reference = item["resourceFieldRef"]
        container = context.container(reference.get("containerName"))
        if container is None:
            raise MountError(f"container {reference.get('containerName')} not found")
        return container_resource(container, reference, context.allocatable)
    except FieldError as error:
        raise MountError(str(error)) from error


def _inside(path: str) -> str:
    if path.startswith("/") or ".." in PurePosixPath(path).parts:
        raise MountError(f"invalid path: must be relative and contain no '..': {path}")
    return path
