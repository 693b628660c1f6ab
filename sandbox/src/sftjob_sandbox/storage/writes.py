"""Create, update, patch and delete: from a decoded body to a stored object, in the order in which a server checks."""

import uuid
from dataclasses import dataclass
from typing import Any, Final

from sftjob_sandbox.apimachinery.causes import as_json, go_plain
from sftjob_sandbox.apimachinery.errors import ApiError, Cause, invalid, not_found
from sftjob_sandbox.apimachinery.objects import Clock, Object, generated_name, name_of, timestamp, with_metadata
from sftjob_sandbox.apply.managed_fields import record_update
from sftjob_sandbox.apply.patches import json_patch, merge_patch
from sftjob_sandbox.apply.server_side import Applier, server_side_apply
from sftjob_sandbox.apply.strategic import strategic_merge_patch
from sftjob_sandbox.crd.definition import check_definition
from sftjob_sandbox.storage.admission import admit, admit_update
from sftjob_sandbox.storage.collections import Entry, Key, Storage
from sftjob_sandbox.storage.decoding import FieldValidation, decode, decode_patched, read_applied
from sftjob_sandbox.storage.deletion import DeleteOptions, goes_with_update, plan_deletion
from sftjob_sandbox.storage.resources import DEFINITIONS, Resource, ServedVersion
from sftjob_sandbox.storage.strategies import (
    before_create,
    before_status_update,
    before_update,
    check_preconditions,
    conflict,
    with_generation,
    with_initial_state,
)

JSON_PATCH: Final = "application/json-patch+json"
MERGE_PATCH: Final = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH: Final = "application/strategic-merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"
_GENERATED_NAME_ATTEMPTS: Final = 8


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a request names: a resource in one version, a place and perhaps an object."""

    resource: Resource
    version: ServedVersion
    namespace: str = ""
    name: str = ""
    status: bool = False
    """Whether the request is for the status subresource."""

    @classmethod
    def of(cls, resource: Resource, key: Key, *, status: bool = False) -> "Target":
        """The object of `key`, in the resource's preferred version."""
        return cls(resource=resource, version=resource.versions[0], namespace=key[0], name=key[1], status=status)

    @property
    def key(self) -> Key:
        """Key of the object in its collection."""
        return (self.namespace, self.name)

    @property
    def api_version(self) -> str:
        """The version that the client speaks."""
        return self.resource.api_version(self.version.name)


@dataclass(frozen=True, kw_only=True)
class WriteOptions:
    """The query parameters of a write. `manager` is the field manager."""

    manager: str
    field_validation: FieldValidation = "Warn"
    dry_run: bool = False
    force: bool = False


@dataclass(frozen=True)
class Written:
    """The answer to a write."""

    entry: Entry
    created: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Deleted:
    """The answer to a DELETE: the object, and whether it is gone already."""

    entry: Entry
    gone: bool


@dataclass(frozen=True)
class Draft:
    """A decoded body on its way into the store."""

    obj: Object
    warnings: tuple[str, ...] = ()
    managed: bool = False
    """Whether managedFields are complete, as after server-side apply."""


class Writer:
    """All writes to one storage."""

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock

    def live(self, target: Target) -> Entry:
        """The stored object. Raises ApiError 404."""
        entry = self._storage.collection(target.resource.key).entries.get(target.key)
        if entry is None:
            raise not_found(target.resource.plural, target.resource.group, target.name)
        return entry

    def create(self, target: Target, body: Any, options: WriteOptions) -> Written:
        """POST."""
        return self._insert(target, _draft(target, body, options), options)

    def update(self, target: Target, body: Any, options: WriteOptions) -> Written:
        """PUT of the object or of its status."""
        draft = _draft(target, body, options)
        if name_of(draft.obj) != target.name:
            text = f"the name of the object ({name_of(draft.obj)}) does not match the name on the URL ({target.name})"
            raise ApiError(400, "BadRequest", text)
        return self._replace(target, draft, self.live(target), options)

    def patch(self, target: Target, kind: str, patch: Any, options: WriteOptions) -> Written:
        """PATCH of the object or of its status; `kind` is the content type."""
        if kind == APPLY_PATCH:
            return self._apply(target, patch, options)
        live = self.live(target)
        seen = live.object
        if kind == STRATEGIC_MERGE_PATCH:
            patched = strategic_merge_patch(seen, patch, target.version.schema.fields)
            shown = go_plain(patch)
        else:
            patched = json_patch(seen, patch) if kind == JSON_PATCH else merge_patch(seen, patch)
            shown = as_json(patched)
        obj, warnings = decode_patched(target.resource, target.version, patched, options.field_validation, shown)
        return self._replace(target, Draft(target.version.schema.default(obj), warnings), live, options)

    def delete(self, target: Target, options: DeleteOptions) -> Deleted:
        """DELETE of one object."""
        live = self.live(target)
        plan = plan_deletion(target.resource, live.object, options, self._clock())
        if plan.kind == "keep" or options.dry_run:
            return Deleted(Entry(plan.obj, live.revision), gone=plan.kind == "remove")
        marked = live if plan.obj == live.object else self._storage.put(target.resource.key, target.key, plan.obj)
        if plan.kind == "mark":
            return Deleted(marked, gone=False)
        return Deleted(self._storage.remove(target.resource.key, target.key), gone=True)

    def amend(self, resource: str, key: Key, new: Object) -> None:
        """Store what the server itself changes about an object, if it changes anything."""
        old = self._storage.collection(resource).entries[key].object
        if new == old:
            return
        if goes_with_update(new, old):
            self._storage.remove(resource, key)
        else:
            self._storage.put(resource, key, new)

    def _apply(self, target: Target, body: Any, options: WriteOptions) -> Written:
        """Server-side apply: PATCH that creates what does not exist."""
        live = self._storage.collection(target.resource.key).entries.get(target.key)
        if live is None and target.status:
            raise not_found(target.resource.plural, target.resource.group, target.name)
        intent = with_metadata(read_applied(body), name=target.name, namespace=target.namespace or None)
        if live is None and (uid := intent["metadata"].get("uid")):
            text = f"uid mismatch: the provided object specified uid {uid}, and no existing object was found"
            raise conflict(target.resource, target.name, text)
        applier = Applier(
            manager=options.manager,
            now=timestamp(self._clock()),
            subresource="status" if target.status else "",
            force=options.force,
        )
        merged = server_side_apply(live.object if live else None, intent, target.version.schema, applier)
        draft = Draft(merged, managed=True)
        return self._replace(target, draft, live, options) if live else self._insert(target, draft, options)

    def _insert(self, target: Target, draft: Draft, options: WriteOptions) -> Written:
        resource, version = target.resource, target.version
        obj = before_create(resource, version, draft.obj, target.namespace)
        if not draft.managed:
            obj = self._managed(target, None, obj, options)
        obj = admit(resource, obj, target.namespace, self._lookup)
        obj = with_initial_state(resource, obj)
        obj = with_metadata(obj, uid=str(uuid.uuid4()), creationTimestamp=timestamp(self._clock()))
        obj = self._with_name(target, obj)
        _check(resource, obj, version.schema.validate(obj, None))
        key = (target.namespace, name_of(obj))
        self._check_absent(resource, key)
        if options.dry_run:
            return Written(Entry(obj, self._storage.revision), created=True, warnings=draft.warnings)
        return Written(self._storage.put(resource.key, key, obj), created=True, warnings=draft.warnings)

    def _replace(self, target: Target, draft: Draft, live: Entry, options: WriteOptions) -> Written:
        resource, schema, old = target.resource, target.version.schema, live.object
        check_preconditions(resource, draft.obj, old)
        new = self._prepared(target, draft, old, options)
        causes = schema.validate_status(new, old) if target.status else schema.validate(new, old)
        _check(resource, new, causes)
        if new == old:
            return Written(live, warnings=draft.warnings)
        if options.dry_run:
            return Written(Entry(new, live.revision), warnings=draft.warnings)
        if goes_with_update(new, old):
            self._storage.remove(resource.key, target.key)
            return Written(Entry(new, live.revision), warnings=draft.warnings)
        return Written(self._storage.put(resource.key, target.key, new), warnings=draft.warnings)

    def _prepared(self, target: Target, draft: Draft, old: Object, options: WriteOptions) -> Object:
        """The new object with what this request may not change taken from the old one."""
        if target.status:
            new = before_status_update(target.resource, draft.obj, old)
            return new if draft.managed else self._managed(target, old, new, options)
        new = before_update(target.resource, target.version, draft.obj, old)
        if not draft.managed:
            new = self._managed(target, old, new, options)
        return with_generation(target.resource, admit_update(target.resource, new), old)

    def _managed(self, target: Target, old: Object | None, new: Object, options: WriteOptions) -> Object:
        return record_update(
            old,
            new,
            manager=options.manager,
            subresource="status" if target.status else "",
            schema=target.version.schema,
            now=timestamp(self._clock()),
        )

    def _with_name(self, target: Target, obj: Object) -> Object:
        base = obj["metadata"].get("generateName")
        if name_of(obj) or not base:
            return obj
        entries = self._storage.collection(target.resource.key).entries
        for _ in range(_GENERATED_NAME_ATTEMPTS):
            name = generated_name(base)
            if (target.namespace, name) not in entries:
                break
        return with_metadata(obj, name=name)

    def _check_absent(self, resource: Resource, key: Key) -> None:
        entry = self._storage.collection(resource.key).entries.get(key)
        if entry is None:
            return
        details = {"name": key[1]} | ({"group": resource.group} if resource.group else {}) | {"kind": resource.plural}
        text = f'{resource.key} "{key[1]}" already exists'
        if entry.object["metadata"].get("deletionTimestamp"):
            text = f"object is being deleted: {text}"
        raise ApiError(409, "AlreadyExists", text, details)

    def _lookup(self, resource: str, namespace: str, name: str) -> Object | None:
        entry = self._storage.collection(resource).entries.get((namespace, name))
        return entry.object if entry else None


def _draft(target: Target, body: Any, options: WriteOptions) -> Draft:
    obj, warnings = decode(target.resource, target.version, body, options.field_validation)
    return Draft(target.version.schema.default(obj), warnings)


def _check(resource: Resource, obj: Object, causes: list[Cause]) -> None:
    """Raise 422 with what is wrong. A definition's own rules come from the resource that it would define."""
    if resource.key == DEFINITIONS and not causes:
        causes = check_definition(obj)
    if causes:
        raise invalid(resource.kind, resource.group, name_of(obj), causes)
