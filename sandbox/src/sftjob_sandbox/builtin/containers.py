"""Rules of a Pod's containers that the published schema does not state.

Source: kubernetes' pkg/apis/core/validation.
"""

from collections.abc import Mapping
from typing import Final

from sftjob_sandbox.apimachinery import names, quantity
from sftjob_sandbox.apimachinery.causes import duplicate, forbidden, invalid, not_found, required
from sftjob_sandbox.apimachinery.errors import Cause
from sftjob_sandbox.apimachinery.metadata import one_of
from sftjob_sandbox.apimachinery.objects import Object

_ONE_SOURCE: Final = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`"


def check_containers(containers: list[Object], volumes: Mapping[str, Object], path: str) -> list[Cause]:
    """The containers of a Pod with these volumes."""
    causes = [] if containers else [required(path)]
    taken: set[str] = set()
    for index, container in enumerate(containers):
        where, name = f"{path}[{index}]", container.get("name") or ""
        causes += [invalid(f"{where}.name", name, text) for text in (names.dns1123_label(name) if name else ())]
        if name in taken:
            causes.append(duplicate(f"{where}.name", name))
        taken.add(name)
        causes += _check_container(container, where)
        causes += _check_mounts(container.get("volumeMounts") or [], volumes, f"{where}.volumeMounts")
    return causes


def _check_container(container: Object, path: str) -> list[Cause]:
    image = container.get("image") or ""
    causes = [] if image else [required(f"{path}.image")]
    if image != image.strip():
        causes.append(invalid(f"{path}.image", image, "must not have leading or trailing whitespace"))
    policy = container.get("terminationMessagePolicy")
    return [
        *causes,
        *one_of(f"{path}.terminationMessagePolicy", policy, ("File", "FallbackToLogsOnError")),
        *_check_env(container.get("env") or [], f"{path}.env"),
        *one_of(f"{path}.imagePullPolicy", container.get("imagePullPolicy"), ("Always", "IfNotPresent", "Never")),
        *_check_resources(container.get("resources") or {}, f"{path}.resources"),
    ]


def _check_env(variables: list[Object], path: str) -> list[Cause]:
    causes: list[Cause] = []
    for index, variable in enumerate(variables):
        where, name, source = f"{path}[{index}]", variable.get("name") or "", variable.get("valueFrom")
        causes += [invalid(f"{where}.name", name, text) for text in (names.env_name(name) if name else ())]
        if source and variable.get("value"):
            causes.append(invalid(f"{where}.valueFrom", "", "may not be specified when `value` is not empty"))
        elif source is not None and len(source) != 1:
            text = "may not have more than one field specified at a time" if source else _ONE_SOURCE
            causes.append(invalid(f"{where}.valueFrom", "", text))
    return causes


def _check_mounts(mounts: list[Object], volumes: Mapping[str, Object], path: str) -> list[Cause]:
    causes: list[Cause] = []
    taken: set[str] = set()
    for index, mount in enumerate(mounts):
        where, name, target = f"{path}[{index}]", mount.get("name") or "", mount.get("mountPath") or ""
        if name not in volumes:
            causes.append(not_found(f"{where}.name", name))
        if target in taken:
            causes.append(invalid(f"{where}.mountPath", target, "must be unique"))
        taken.add(target)
        causes += relative_path(mount.get("subPath") or "", f"{path}.subPath")
    return causes


def _check_resources(resources: Object, path: str) -> list[Cause]:
    """Amounts, and that no request exceeds its limit."""
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    causes: list[Cause] = []
    for kind, amounts in (("limits", limits), ("requests", requests)):
        for name, value in amounts.items():
            where, number = f"{path}.{kind}[{name}]", quantity.parse(value).value
            if number < 0:
                causes.append(invalid(where, value, "must be greater than or equal to 0"))
            if _is_extended(name) and number != number.to_integral_value():
                causes.append(invalid(where, value, "must be an integer"))
    for name, value in requests.items():
        causes += _compare(name, value, limits.get(name), path)
    return causes


def _is_extended(name: str) -> bool:
    """Whether a device plugin provides the resource, such as nvidia.com/gpu; its request equals its limit."""
    return "/" in name and "kubernetes.io/" not in name


def _compare(name: str, value: str, limit: str | None, path: str) -> list[Cause]:
    if limit is None:
        text = "Limit must be set for non overcommitable resources"
        return [required(f"{path}.limits", text)] if _is_extended(name) else []
    requested, allowed = quantity.parse(value).value, quantity.parse(limit).value
    if requested != allowed and _is_extended(name):
        return [invalid(f"{path}.requests", value, f"must be equal to {name} limit of {limit}")]
    if requested > allowed:
        return [invalid(f"{path}.requests", value, f"must be less than or equal to {name} limit of {limit}")]
    return []


_FILE_MODE_TEXT: Final = "must be a number between 0 and 0777 (octal), both inclusive"
_MORE_THAN_ONE: Final = "may not specify more than 1 volume type"


def check_volumes(volumes: list[Object], path: str) -> tuple[dict[str, Object], list[Cause]]:
    """The well-formed volumes by name, for mounts to refer to, and what is wrong with the others."""
    known: dict[str, Object] = {}
    causes: list[Cause] = []
    for index, volume in enumerate(volumes):
        where, name = f"{path}[{index}]", volume.get("name") or ""
        found = _check_source(volume, where)
        found += [invalid(f"{where}.name", name, text) for text in (names.dns1123_label(name) if name else ())]
        if name in known:
            found.append(duplicate(f"{where}.name", name))
        if not found:
            known[name] = volume
        causes += found
    return known, causes


def _check_source(volume: Object, path: str) -> list[Cause]:
    kinds = [kind for kind in volume if kind != "name"]
    causes = [forbidden(f"{path}.{kind}", _MORE_THAN_ONE) for kind in kinds[1:]]
    for kind in kinds[:1]:
        source, where = volume[kind], f"{path}.{kind}"
        causes += _mode(source.get("defaultMode"), f"{where}.defaultMode")
        if kind == "configMap":
            causes += _check_files(source, where)
        if kind == "projected":
            causes += _check_projected(source, where)
    return causes


def _check_files(source: Object, path: str) -> list[Cause]:
    """A ConfigMap as files."""
    causes = [] if source.get("name") else [required(f"{path}.name")]
    for index, item in enumerate(source.get("items") or ()):
        where = f"{path}.items[{index}]"
        causes += relative_path(item.get("path") or "", f"{where}.path")
        causes += _mode(item.get("mode"), f"{where}.mode")
    return causes


def _check_projected(source: Object, path: str) -> list[Cause]:
    causes: list[Cause] = []
    taken: set[str] = set()
    for index, projection in enumerate(source.get("sources") or ()):
        where = f"{path}.sources[{index}]"
        if len(projection) > 1:
            causes.append(forbidden(where, _MORE_THAN_ONE))
        config, token = projection.get("configMap"), projection.get("serviceAccountToken", {})
        causes += _check_files(config, f"{where}.configMap") if config else []
        for target in [item.get("path") for item in (config or {}).get("items") or ()]:
            if target in taken:
                causes.append(invalid(path, (config or {}).get("name", ""), "conflicting duplicate paths"))
            taken.add(target)
        causes += relative_path(token.get("path") or "", f"{path}.path")
        if token.get("expirationSeconds", 600) < 600:
            field, text = f"{where}.serviceAccountToken.expirationSeconds", "may not specify a duration less than"
            causes.append(invalid(field, token["expirationSeconds"], f"{text} 10 minutes"))
    return causes


def _mode(mode: int | None, path: str) -> list[Cause]:
    return [] if mode is None or 0 <= mode <= 0o777 else [invalid(path, mode, _FILE_MODE_TEXT)]


def relative_path(target: str, path: str) -> list[Cause]:
    """A path that stays inside its volume."""
    if target.startswith("/"):
        return [invalid(path, target, "must be a relative path")]
    return [invalid(path, target, "must not contain '..'")] if ".." in target.split("/") else []
