"""Rules of ObjectMeta, the same for every kind. Source: apimachinery's pkg/api/validation/objectmeta.go."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from sftjob_sandbox import names
from sftjob_sandbox.causes import forbidden, invalid, not_supported, required, too_long
from sftjob_sandbox.errors import Cause
from sftjob_sandbox.objects import Object

NameRule = Callable[[str], list[str]]

ANNOTATIONS_LIMIT_BYTES: Final = 256 * 1024
FIELD_IMMUTABLE: Final = "field is immutable"
_IMMUTABLE: Final = (
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)


def validate_metadata(
    metadata: Object, *, namespaced: bool, name_rule: NameRule, path: str = "metadata"
) -> list[Cause]:
    """What is wrong with the metadata of a new object; its name has been generated already."""
    causes = []
    if base := metadata.get("generateName"):
        causes += [invalid(f"{path}.generateName", base, text) for text in name_rule(names.masked(base))]
    name = metadata.get("name")
    if not name:
        causes.append(required(f"{path}.name", "name or generateName is required"))
    else:
        causes += [invalid(f"{path}.name", name, text) for text in name_rule(name)]
    namespace = metadata.get("namespace")
    if not namespaced and namespace:
        causes.append(forbidden(f"{path}.namespace", "not allowed on this type"))
    elif namespaced and not namespace:
        causes.append(required(f"{path}.namespace"))
    elif namespaced:
        causes += [invalid(f"{path}.namespace", namespace, text) for text in names.dns1123_label(str(namespace))]
    generation = metadata.get("generation", 0)
    if generation < 0:
        causes.append(invalid(f"{path}.generation", generation, "must be greater than or equal to 0"))
    return [
        *causes,
        *_common(metadata, path),
        *_finalizers(metadata.get("finalizers") or [], f"{path}.finalizers"),
        *_managed_fields(metadata, path),
    ]


def validate_metadata_update(new: Object, old: Object, path: str = "metadata") -> list[Cause]:
    """What is wrong with the metadata of a changed object."""
    causes = []
    if old.get("deletionTimestamp"):
        added = sorted(set(new.get("finalizers") or ()) - set(old.get("finalizers") or ()))
        if added:
            shown = "[]string{" + ", ".join(f'"{name}"' for name in added) + "}"
            text = f"no new finalizers can be added if the object is being deleted, found new finalizers {shown}"
            causes.append(forbidden(f"{path}.finalizers", text))
    if not new.get("resourceVersion"):
        causes.append(invalid(f"{path}.resourceVersion", "", "must be specified for an update"))
    if new.get("generation", 0) < old.get("generation", 0):
        causes.append(invalid(f"{path}.generation", new.get("generation", 0), "must not be decremented"))
    for key in _IMMUTABLE:
        if new.get(key) != old.get(key):
            empty = "" if key in ("name", "namespace", "uid") else None
            causes.append(invalid(f"{path}.{key}", new.get(key, empty), FIELD_IMMUTABLE))
    return [*causes, *_common(new, path), *_managed_fields(new, path)]


def _common(metadata: Object, path: str) -> list[Cause]:
    return [
        *validate_labels(metadata.get("labels") or {}, f"{path}.labels"),
        *_annotations(metadata.get("annotations") or {}, f"{path}.annotations"),
        *_owners(metadata.get("ownerReferences") or [], f"{path}.ownerReferences"),
    ]


def validate_labels(labels: Mapping[str, str], path: str) -> list[Cause]:
    """Keys are qualified names, values label values."""
    causes = []
    for key, value in labels.items():
        causes += [invalid(path, key, text) for text in names.qualified_name(key)]
        causes += [invalid(path, value, text) for text in names.label_value(value)]
    return causes


def _annotations(annotations: Mapping[str, str], path: str) -> list[Cause]:
    causes = [invalid(path, key, text) for key in annotations for text in names.qualified_name(key.lower())]
    size = sum(names.byte_length(key) + names.byte_length(value) for key, value in annotations.items())
    return [*causes, too_long(path, ANNOTATIONS_LIMIT_BYTES)] if size > ANNOTATIONS_LIMIT_BYTES else causes


def _owners(owners: list[Object], path: str) -> list[Cause]:
    causes = []
    controller = ""
    for owner in owners:
        api_version, kind = owner.get("apiVersion", ""), owner.get("kind", "")
        if not api_version or api_version.count("/") > 1 or api_version.endswith("/"):
            causes.append(invalid(f"{path}.apiVersion", api_version, "version must not be empty"))
        missing = (key for key in ("kind", "name", "uid") if not owner.get(key))
        causes += [invalid(f"{path}.{key}", "", f"{key} must not be empty") for key in missing]
        if (api_version, kind) == ("v1", "Event"):
            causes.append(invalid(path, owner, "/v1, Kind=Event is disallowed from being an owner"))
        if owner.get("controller"):
            current = f"{kind}/{owner.get('name', '')}"
            if controller:
                text = (
                    'Only one reference can have Controller set to true. Found "true" in references '
                    f"for {controller} and {current}"
                )
                causes.append(invalid(path, owners, text))
            controller = controller or current
    return causes


def _finalizers(finalizers: list[str], path: str) -> list[Cause]:
    causes = [invalid(path, name, text) for name in finalizers for text in names.qualified_name(name)]
    if "orphan" in finalizers and "foregroundDeletion" in finalizers:
        text = "finalizer orphan and foregroundDeletion cannot be both set"
        causes.append(invalid(path, finalizers, text))
    return causes


def _managed_fields(metadata: Object, path: str) -> list[Cause]:
    causes = []
    for index, entry in enumerate(metadata.get("managedFields") or []):
        where = f"{path}.managedFields[{index}]"
        if entry.get("operation") not in ("Apply", "Update"):
            text = "must be `Apply` or `Update`"
            causes.append(invalid(f"{where}.operation", entry.get("operation", ""), text))
        if entry.get("fieldsType") not in (None, "", "FieldsV1"):
            causes.append(invalid(f"{where}.fieldsType", entry["fieldsType"], "must be `FieldsV1`"))
        causes += field_manager(entry.get("manager", ""), f"{where}.manager")
    return causes


def field_manager(name: str, path: str = "fieldManager") -> list[Cause]:
    """Length and characters of a field manager's name."""
    causes = [too_long(path, 128)] if names.byte_length(name) > 128 else []
    for position, character in enumerate(name):
        if not character.isprintable():
            text = f"invalid character U+{ord(character):04X} (at position {position})"
            causes.append(invalid(path, name, text))
    return causes


def immutable(field: str, new: Any, old: Any) -> list[Cause]:
    """One cause if the field changed."""
    return [] if new == old else [invalid(field, new, FIELD_IMMUTABLE)]


def one_of(field: str, value: Any, supported: tuple[str, ...], *, empty: bool = False) -> list[Cause]:
    """One cause if `value` is not among `supported`; a missing one is required unless `empty`."""
    if value in (None, ""):
        return [] if empty else [required(field)]
    return [] if value in supported else [not_supported(field, value, supported)]
