"""Rules of a Pod's volumes. Source: kubernetes' pkg/apis/core/validation."""

from collections.abc import Callable
from typing import Any, Final

from sftjob_sandbox import names
from sftjob_sandbox.builtin import quantity
from sftjob_sandbox.builtin.references import check_field, check_resource_field
from sftjob_sandbox.causes import duplicate, forbidden, invalid, not_supported, required
from sftjob_sandbox.errors import Cause
from sftjob_sandbox.objects import Object

FILE_MODE_TEXT: Final = "must be a number between 0 and 0777 (octal), both inclusive"
VOLUME_FIELD_PATHS: Final = frozenset({
    "metadata.name", "metadata.namespace", "metadata.labels", "metadata.annotations", "metadata.uid",
})  # fmt: skip
_HOST_PATH_TYPES: Final = (
    "", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket",
)  # fmt: skip
_MORE_THAN_ONE: Final = "may not specify more than 1 volume type"


def check_volumes(volumes: list[Object], path: str) -> tuple[dict[str, Object], list[Cause]]:
    """The well-formed volumes by name, for mounts to refer to, and what is wrong with the others."""
    known: dict[str, Object] = {}
    causes: list[Cause] = []
    for index, volume in enumerate(volumes):
        where = f"{path}[{index}]"
        name = volume.get("name") or ""
        found = _check_source(volume, where)
        if not name:
            found.append(required(f"{where}.name"))
        else:
            found += [invalid(f"{where}.name", name, text) for text in names.dns1123_label(name)]
        if name in known:
            found.append(duplicate(f"{where}.name", name))
        if not found:
            known[name] = volume
        causes += found
    return known, causes


def _check_source(volume: Object, path: str) -> list[Cause]:
    kinds = [kind for kind in volume if kind != "name"]
    if not kinds:
        return [required(path, "must specify a volume type")]
    causes = []
    ordered = sorted(kinds, key=lambda kind: _ORDER.get(kind, len(_ORDER)))
    for position, kind in enumerate(ordered):
        if position:
            causes.append(forbidden(f"{path}.{kind}", _MORE_THAN_ONE))
            continue
        check = _CHECKS.get(kind)
        causes += check(volume[kind], f"{path}.{kind}") if check else []
    return causes


def _empty_dir(source: Object, path: str) -> list[Cause]:
    limit = source.get("sizeLimit")
    if limit is not None and quantity.parse(limit).value < 0:
        return [forbidden(f"{path}.sizeLimit", "SizeLimit field must be a valid resource quantity")]
    return []


def _host_path(source: Object, path: str) -> list[Cause]:
    if not source.get("path"):
        return [required(f"{path}.path")]
    causes = no_backsteps(source["path"], f"{path}.path")
    if source.get("type", "") not in _HOST_PATH_TYPES:
        causes.append(not_supported(f"{path}.type", source["type"], _HOST_PATH_TYPES))
    return causes


def _secret(source: Object, path: str) -> list[Cause]:
    causes = [] if source.get("secretName") else [required(f"{path}.secretName")]
    return [*causes, *_mode(source.get("defaultMode"), f"{path}.defaultMode"), *_items(source, path)]


def _config_map(source: Object, path: str) -> list[Cause]:
    causes = [] if source.get("name") else [required(f"{path}.name")]
    return [*causes, *_mode(source.get("defaultMode"), f"{path}.defaultMode"), *_items(source, path)]


def _claim(source: Object, path: str) -> list[Cause]:
    return [] if source.get("claimName") else [required(f"{path}.claimName")]


def _downward_api(source: Object, path: str) -> list[Cause]:
    causes = _mode(source.get("defaultMode"), f"{path}.defaultMode")
    for item in source.get("items") or ():
        causes += _downward_file(item, path)
    return causes


def _nfs(source: Object, path: str) -> list[Cause]:
    causes = [required(f"{path}.{key}") for key in ("server", "path") if not source.get(key)]
    if not source.get("path", "").startswith("/"):
        causes.append(invalid(f"{path}.path", source.get("path", ""), "must be an absolute path"))
    return causes


def _projected(source: Object, path: str) -> list[Cause]:
    causes = _mode(source.get("defaultMode"), f"{path}.defaultMode")
    taken: set[str] = set()
    for index, projection in enumerate(source.get("sources") or ()):
        where = f"{path}.sources[{index}]"
        for kind in ("secret", "configMap"):
            if kind in projection:
                part = projection[kind]
                causes += [] if part.get("name") else [required(f"{where}.{kind}.name")]
                causes += _items(part, f"{where}.{kind}")
                causes += _taken_paths(part, taken, path, part.get("name", ""))
        if "downwardAPI" in projection:
            for item in projection["downwardAPI"].get("items") or ():
                causes += _downward_file(item, f"{where}.downwardAPI")
            causes += _taken_paths(projection["downwardAPI"], taken, path, None)
        if "serviceAccountToken" in projection:
            causes += _token(projection["serviceAccountToken"], f"{where}.serviceAccountToken", path)
        if len(projection) > 1:
            causes.append(forbidden(where, _MORE_THAN_ONE))
    return causes


def _taken_paths(source: Object, taken: set[str], path: str, shown: str | None) -> list[Cause]:
    causes = []
    for item in source.get("items") or ():
        target = item.get("path")
        if target and target in taken:
            causes.append(invalid(path, target if shown is None else shown, "conflicting duplicate paths"))
        elif target:
            taken.add(target)
    return causes


def _token(source: Object, path: str, projected_path: str) -> list[Cause]:
    causes = []
    seconds = source.get("expirationSeconds", 3600)
    if seconds < 600:
        causes.append(invalid(f"{path}.expirationSeconds", seconds, "may not specify a duration less than 10 minutes"))
    if seconds > 1 << 32:
        text = "may not specify a duration larger than 2^32 seconds"
        causes.append(invalid(f"{path}.expirationSeconds", seconds, text))
    if not source.get("path"):
        return [*causes, required(f"{projected_path}.path")]
    return [*causes, *local_path(source["path"], f"{projected_path}.path")]


def _items(source: Object, path: str) -> list[Cause]:
    causes = []
    for index, item in enumerate(source.get("items") or ()):
        where = f"{path}.items[{index}]"
        causes += [required(f"{where}.{key}") for key in ("key", "path") if not item.get(key)]
        causes += local_path(item.get("path") or "", f"{where}.path")
        causes += _mode(item.get("mode"), f"{where}.mode")
    return causes


def _downward_file(item: Object, path: str) -> list[Cause]:
    causes = [] if item.get("path") else [required(f"{path}.path")]
    causes += local_path(item.get("path") or "", f"{path}.path")
    if "fieldRef" in item:
        causes += check_field(item["fieldRef"], VOLUME_FIELD_PATHS, f"{path}.fieldRef")
        if "resourceFieldRef" in item:
            text = "fieldRef and resourceFieldRef can not be specified simultaneously"
            causes.append(invalid(path, "resource", text))
    elif "resourceFieldRef" in item:
        causes += check_resource_field(item["resourceFieldRef"], f"{path}.resourceFieldRef", volume=True)
    else:
        causes.append(required(path, "one of fieldRef and resourceFieldRef is required"))
    return [*causes, *_mode(item.get("mode"), f"{path}.mode")]


def _mode(mode: int | None, path: str) -> list[Cause]:
    return [] if mode is None or 0 <= mode <= 0o777 else [invalid(path, mode, FILE_MODE_TEXT)]


def no_backsteps(target: str, path: str) -> list[Cause]:
    """No part of the path is `..`."""
    return [invalid(path, target, "must not contain '..'")] if ".." in target.split("/") else []


def descending_path(target: str, path: str) -> list[Cause]:
    """A relative path that does not lead out."""
    causes = [invalid(path, target, "must be a relative path")] if target.startswith("/") else []
    return [*causes, *no_backsteps(target, path)]


def local_path(target: str, path: str) -> list[Cause]:
    """A descending path that does not start with two dots either."""
    causes = descending_path(target, path)
    if target.startswith("..") and not target.startswith("../"):
        causes.append(invalid(path, target, "must not start with '..'"))
    return causes


_CHECKS: Final[dict[str, Callable[[Any, str], list[Cause]]]] = {
    "emptyDir": _empty_dir,
    "hostPath": _host_path,
    "secret": _secret,
    "nfs": _nfs,
    "persistentVolumeClaim": _claim,
    "downwardAPI": _downward_api,
    "configMap": _config_map,
    "projected": _projected,
}
_ORDER: Final = {kind: position for position, kind in enumerate(_CHECKS)}
