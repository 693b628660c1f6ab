"""Rules of ObjectMeta, the same for every kind. Source: apimachinery's pkg/api/validation/objectmeta.go."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from sftjob_sandbox.apimachinery import names
from sftjob_sandbox.apimachinery.causes import forbidden, invalid, not_supported, required, too_long
from sftjob_sandbox.apimachinery.errors import Cause
from sftjob_sandbox.apimachinery.objects import Object

NameRule = Callable[[str], list[str]]

ANNOTATIONS_LIMIT_BYTES: Final = 256 * 1024


def validate_metadata(metadata: Object, name_rule: NameRule) -> list[Cause]:
    """What is wrong with the metadata of a new object, whose name, namespace and generation the server has set."""
    causes = []
    if base := metadata.get("generateName"):
        causes += [invalid("metadata.generateName", base, text) for text in name_rule(names.masked(base))]
    if name := metadata.get("name"):
        causes += [invalid("metadata.name", name, text) for text in name_rule(name)]
    else:
        causes.append(required("metadata.name", "name or generateName is required"))
    return [*causes, *_common(metadata), *_finalizers(metadata.get("finalizers") or [], "metadata.finalizers")]


def validate_metadata_update(new: Object, old: Object) -> list[Cause]:
    """What is wrong with the metadata of a changed object; what only the server sets is that of the old one."""
    causes = immutable("metadata.name", new.get("name"), old.get("name"))
    if old.get("deletionTimestamp"):
        added = sorted(set(new.get("finalizers") or ()) - set(old.get("finalizers") or ()))
        if added:
            shown = "[]string{" + ", ".join(f'"{name}"' for name in added) + "}"
            text = f"no new finalizers can be added if the object is being deleted, found new finalizers {shown}"
            causes.append(forbidden("metadata.finalizers", text))
    return [*causes, *_common(new)]


def _common(metadata: Object) -> list[Cause]:
    return [
        *validate_labels(metadata.get("labels") or {}, "metadata.labels"),
        *_annotations(metadata.get("annotations") or {}, "metadata.annotations"),
        *_owners(metadata.get("ownerReferences") or [], "metadata.ownerReferences"),
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


def immutable(field: str, new: Any, old: Any) -> list[Cause]:
    """One cause if the field changed."""
    return [] if new == old else [invalid(field, new, "field is immutable")]


def one_of(field: str, value: Any, supported: tuple[str, ...], *, empty: bool = False) -> list[Cause]:
    """One cause if `value` is not among `supported`; a missing one is required unless `empty`."""
    if value in (None, ""):
        return [] if empty else [required(field)]
    return [] if value in supported else [not_supported(field, value, supported)]
