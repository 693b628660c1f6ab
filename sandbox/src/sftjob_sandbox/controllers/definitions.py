"""The life of CustomResourceDefinitions: from accepted names to a served resource, and its clearing away."""

import asyncio
from typing import Final

from sftjob_sandbox.apimachinery.objects import Clock, Object, finalizers_of, is_deleting, timestamp, with_metadata
from sftjob_sandbox.storage.collections import Change, Key, Storage
from sftjob_sandbox.storage.deletion import DeleteOptions
from sftjob_sandbox.storage.resources import DEFINITIONS, Catalog, custom_resource
from sftjob_sandbox.storage.writes import Target, Writer

CLEANUP: Final = "customresourcecleanup.apiextensions.k8s.io"


class DefinitionController:
    """Listens to a storage; serves what definitions define, in a later turn of the event loop."""

    def __init__(self, storage: Storage, catalog: Catalog, writer: Writer, clock: Clock) -> None:
        self._storage = storage
        self._catalog = catalog
        self._writer = writer
        self._clock = clock
        self._served: dict[str, Object] = {}
        storage.listeners.append(self._on_change)

    def _on_change(self, resource: str, change: Change) -> None:
        if resource == DEFINITIONS and change.type == "DELETED":
            self._catalog.resources.pop(change.key[1], None)
            self._served.pop(change.key[1], None)
            self._storage.drop(change.key[1])
        elif resource == DEFINITIONS:
            asyncio.get_running_loop().call_soon(self._reconcile, change.key)
        elif change.type == "DELETED" and resource in self._served:
            asyncio.get_running_loop().call_soon(self._reconcile, ("", resource))

    def _reconcile(self, key: Key) -> None:
        entry = self._storage.collection(DEFINITIONS).entries.get(key)
        if entry is None:
            return
        if is_deleting(entry.object):
            self._clear(key, entry.object)
            return
        definition = self._accepted(entry.object)
        conditions = {c["type"]: c["status"] for c in definition["status"]["conditions"]}
        if conditions["Established"] == "True" and self._served.get(key[1]) != definition["spec"]:
            self._catalog.resources[key[1]] = custom_resource(definition)
            self._served[key[1]] = definition["spec"]
        self._writer.amend(DEFINITIONS, key, definition)

    def _accepted(self, definition: Object) -> Object:
        """The definition with its conditions: whether its names are free, and that it is served."""
        spec, status = definition["spec"], dict(definition.get("status") or {})
        reason, message = self._name_conflict(definition) or ("NoConflicts", "no conflicts found")
        free = reason == "NoConflicts"
        accepted = [_condition("NamesAccepted", free, reason, message)]
        if free:
            text = "the initial names have been accepted"
            accepted.append(_condition("Established", True, "InitialNamesAccepted", text))
            status["acceptedNames"] = spec["names"]
        elif not any(c["type"] == "Established" for c in status.get("conditions") or ()):
            accepted.append(_condition("Established", False, "NotAccepted", "not all names are accepted"))
        stored = list(status.get("storedVersions") or ())
        storage = next(version["name"] for version in spec["versions"] if version["storage"])
        status["storedVersions"] = stored if storage in stored else [*stored, storage]
        status["conditions"] = self._merged(status.get("conditions") or [], accepted)
        status.setdefault("acceptedNames", {"kind": "", "plural": ""})
        finalizers = finalizers_of(definition)
        finalizers = finalizers if CLEANUP in finalizers else [*finalizers, CLEANUP]
        return with_metadata({**definition, "status": status}, finalizers=finalizers)

    def _name_conflict(self, definition: Object) -> tuple[str, str] | None:
        """Reason and message if another resource of the group has one of the names; the last one that is taken."""
        spec, names = definition["spec"], definition["spec"]["names"]
        others = [r for r in self._catalog.resources.values() if r.group == spec["group"]]
        others = [r for r in others if r.key != definition["metadata"]["name"]]
        words = {word for r in others for word in (r.plural, r.singular, *r.short_names)}
        kinds = {kind for r in others for kind in (r.kind, r.list_kind)}
        asked = (
            ("PluralConflict", names["plural"], words),
            ("SingularConflict", names.get("singular", ""), words),
            *(("ShortNamesConflict", name, words) for name in names.get("shortNames") or ()),
            ("KindConflict", names["kind"], kinds),
            ("ListKindConflict", names.get("listKind", ""), kinds),
        )
        taken = [(reason, f'"{name}" is already in use') for reason, name, used in asked if name and name in used]
        return taken[-1] if taken else None

    def _merged(self, old: list[Object], new: list[Object]) -> list[Object]:
        """Conditions by type; the transition time changes with the status only."""
        times = {(c["type"], c["status"]): c["lastTransitionTime"] for c in old}
        now = timestamp(self._clock())
        merged = [{"lastTransitionTime": times.get((c["type"], c["status"]), now), **c} for c in new]
        types = {c["type"] for c in new}
        return [*(c for c in old if c["type"] not in types), *merged]

    def _clear(self, key: Key, definition: Object) -> None:
        """Delete all objects of a deleted definition; take the finalizer off once none is left."""
        left = False
        resource = self._catalog.resources.get(key[1])
        if resource is not None:
            for item in list(self._storage.collection(resource.key).entries):
                deleted = self._writer.delete(Target.of(resource, item), DeleteOptions())
                left = left or not deleted.gone
        text = "CustomResource deletion is in progress"
        ending = _condition("Terminating", True, "InstanceDeletionInProgress", text)
        status = definition.get("status") or {}
        status = {**status, "conditions": self._merged(status.get("conditions") or [], [ending])}
        others = [name for name in finalizers_of(definition) if left or name != CLEANUP]
        self._writer.amend(DEFINITIONS, key, with_metadata({**definition, "status": status}, finalizers=others))


def _condition(kind: str, holds: bool, reason: str, message: str) -> Object:
    return {"type": kind, "status": "True" if holds else "False", "reason": reason, "message": message}
