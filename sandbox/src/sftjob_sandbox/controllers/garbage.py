"""The garbage collector: objects whose owners are gone go too.

The rules are those of k8s.io/kubernetes/pkg/controller/garbagecollector: an object goes once none of its owners exists;
`foregroundDeletion` keeps an owner until the dependents that block it are gone; `orphan` leaves the dependents.
"""

import asyncio
from collections import defaultdict

from sftjob_sandbox.apimachinery.objects import Object, finalizers_of, is_deleting, owners_of, uid_of, with_metadata
from sftjob_sandbox.storage.collections import Change, Key, Storage
from sftjob_sandbox.storage.deletion import FOREGROUND, ORPHAN, DeleteOptions
from sftjob_sandbox.storage.resources import Catalog
from sftjob_sandbox.storage.writes import Target, Writer

Place = tuple[str, Key]
"""Resource and key of an object."""


class GarbageCollector:
    """Listens to a storage and deletes what nobody owns any more, in a later turn of the event loop."""

    def __init__(self, storage: Storage, catalog: Catalog, writer: Writer) -> None:
        self._storage = storage
        self._catalog = catalog
        self._writer = writer
        self._places: dict[str, Place] = {}
        self._dependents: defaultdict[str, set[Place]] = defaultdict(set)
        storage.listeners.append(self._on_change)

    def _on_change(self, resource: str, change: Change) -> None:
        place, obj = (resource, change.key), change.entry.object
        gone = change.type == "DELETED"
        before = {owner["uid"] for owner in owners_of(change.previous.object)} if change.previous else set()
        after = set() if gone else {owner["uid"] for owner in owners_of(obj)}
        for owner in before - after:
            self._dependents[owner].discard(place)
            self._soon_finish(owner)
        for owner in after - before:
            self._dependents[owner].add(place)
        if gone:
            self._places.pop(uid_of(obj), None)
            for dependent in self._dependents.pop(uid_of(obj), ()):
                self._soon_collect(dependent)
            return
        self._places[uid_of(obj)] = place
        if after != before:
            self._soon_collect(place)
        if is_deleting(obj):
            self._soon_finish(uid_of(obj))

    def _soon_collect(self, place: Place) -> None:
        asyncio.get_running_loop().call_soon(self._collect, place)

    def _soon_finish(self, owner: str) -> None:
        asyncio.get_running_loop().call_soon(self._finish, owner)

    def _object(self, place: Place) -> Object | None:
        entry = self._storage.collection(place[0]).entries.get(place[1])
        return entry.object if entry else None

    def _collect(self, place: Place) -> None:
        """Delete an object none of whose owners stays; take the references to those that do not stay off others."""
        obj = self._object(place)
        resource = self._catalog.resources.get(place[0])
        if obj is None or resource is None or not owners_of(obj):
            return
        staying = [owner for owner in owners_of(obj) if self._stays(owner["uid"], place[1])]
        if len(staying) == len(owners_of(obj)):
            return
        if staying:
            self._writer.amend(*place, with_metadata(obj, ownerReferences=staying))
            return
        waited_for = any(owner["uid"] in self._places for owner in owners_of(obj))
        foreground = waited_for and bool(self._dependents.get(uid_of(obj)))
        options = DeleteOptions(uid=uid_of(obj), propagation="Foreground" if foreground else "")
        self._writer.delete(Target.of(resource, place[1]), options)

    def _stays(self, owner: str, dependent: Key) -> bool:
        """Whether an owner exists where the dependent may name it, and does not wait for its dependents to go."""
        place = self._places.get(owner)
        if place is None or (place[1][0] and place[1][0] != dependent[0]):
            return False
        obj = self._object(place)
        return obj is not None and not (is_deleting(obj) and FOREGROUND in finalizers_of(obj))

    def _finish(self, owner: str) -> None:
        """Take the collector's finalizers off an owner that is being deleted, once their work is done."""
        place = self._places.get(owner)
        obj = self._object(place) if place else None
        if place is None or obj is None or not is_deleting(obj):
            return
        dependents = sorted(self._dependents.get(owner, ()))
        if ORPHAN in finalizers_of(obj):
            for dependent in dependents:
                self._orphan(dependent, owner)
            self._drop_finalizer(place, obj, ORPHAN)
        elif FOREGROUND in finalizers_of(obj):
            for dependent in dependents:
                self._soon_collect(dependent)
            if not any(self._blocks(dependent, owner) for dependent in dependents):
                self._drop_finalizer(place, obj, FOREGROUND)

    def _blocks(self, dependent: Place, owner: str) -> bool:
        obj = self._object(dependent)
        return obj is not None and any(o["uid"] == owner and o.get("blockOwnerDeletion") for o in owners_of(obj))

    def _orphan(self, dependent: Place, owner: str) -> None:
        if obj := self._object(dependent):
            others = [reference for reference in owners_of(obj) if reference["uid"] != owner]
            self._writer.amend(*dependent, with_metadata(obj, ownerReferences=others))

    def _drop_finalizer(self, place: Place, obj: Object, finalizer: str) -> None:
        others = [name for name in finalizers_of(obj) if name != finalizer]
        self._writer.amend(*place, with_metadata(obj, finalizers=others))
